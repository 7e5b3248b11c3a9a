"""The result of an evaluation: the content of evaluation.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mapft.config import BASE, TUNED
from mapft.palette import DualSolution


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its bootstrap interval, in the unit of what was averaged."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """The longer half of the interval."""
        return max(self.high - self.mean, self.mean - self.low)


@dataclass(frozen=True)
class PolicyResult:
    """One policy on the held-out prompts. levels: by value. win_rate: against the base policy, by value.

    kl: to the base policy in nats. tokens: per response. distinct_2: unique word pairs / word pairs of a response.
    truncated: share of responses truncated at the length limit. responses: number of scored responses. kl_is_bound:
    whether kl is an upper bound. price_ratio: as in `Evaluation`, of a policy beside base and tuned.
    """

    levels: dict[str, Estimate]
    win_rate: dict[str, Estimate]
    kl: Estimate
    tokens: Estimate
    distinct_2: Estimate
    truncated: Estimate
    responses: int
    kl_is_bound: bool = False
    price_ratio: Estimate | None = None

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "PolicyResult":
        """The result that dataclasses.asdict wrote."""
        estimates: dict[str, Any] = {
            name: Estimate(**plain[name]) for name in ("kl", "tokens", "distinct_2", "truncated")
        }
        for name in ("levels", "win_rate"):
            estimates[name] = {value: Estimate(**estimate) for value, estimate in plain[name].items()}
        estimates["price_ratio"] = Estimate(**plain["price_ratio"]) if plain["price_ratio"] else None
        return cls(**estimates, responses=plain["responses"], kl_is_bound=plain["kl_is_bound"])


@dataclass(frozen=True)
class ValueResult:
    """One value: its target, and its predicted and realized level.

    base: level of the base policy on the held-out prompts. lam: the pilot's multiplier. predicted: level of p_lam on
    the pilot. realized: level of the tuned policy on the held-out prompts. sd: of the pilot's base scores.
    gap_sd = (realized - target) / sd and met are None for a free value and for one whose scores are constant.
    """

    base: float
    target: float | None
    lam: float
    predicted: float
    realized: Estimate
    sd: float
    gap_sd: float | None
    met: bool | None

    @property
    def gap_text(self) -> str:
        """The gap in sd; "free" without a target, "constant" where all scores are alike."""
        if self.target is None:
            return "free"
        return "constant" if self.gap_sd is None else f"{self.gap_sd:+.2f}"

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "ValueResult":
        """The result that dataclasses.asdict wrote."""
        return cls(**dict(plain) | {"realized": Estimate(**plain["realized"])})


@dataclass(frozen=True)
class Evaluation:
    """Predicted against realized levels of a run, and every policy that was evaluated.

    mode, aims_at_palette: of the training. lam: multipliers at the end of training, None for a mode without any.
    lam_error: their standard errors, where rollouts gave them. scored: responses scored in training.
    targets_from: the numbers in the palette's file, by kind of target. requested, adjusted: as in solution.json.
    visits, end: the visits of sequential mode and why it ended, else empty. cache_key: hash of everything that the
    evaluation depends on. tracked: whether the trackers have it. kl_to_target: KL(pi || p_lam) of the tuned policy in
    nats, with `lam`, or the pilot's where a baseline has others or none. price_ratio: KL(pi || p0) / the least KL that
    has its levels. Both as in convergence.py. engine: how far the engine is from the policy, as `Mismatch` of
    mapft/sampling/engines has it, for pilot, base or tuned policy, whichever has the largest bound; empty for
    transformers.
    """

    values: dict[str, ValueResult]
    policies: dict[str, PolicyResult]
    solution: DualSolution
    prompts: int
    confidence: float
    tolerance_sd: float
    mode: str
    aims_at_palette: bool
    lam: dict[str, float] | None
    lam_error: dict[str, float]
    scored: int
    adjusted: bool
    requested: dict[str, float]
    targets_from: dict[str, dict[str, float]]
    adapter: str
    visits: list[dict[str, Any]]
    end: str
    kl_to_target: Estimate | None = None
    price_ratio: Estimate | None = None
    engine: dict[str, float] = field(default_factory=dict)
    cache_key: str = ""
    tracked: bool = False

    @property
    def base(self) -> PolicyResult:
        """The base policy."""
        return self.policies[BASE]

    @property
    def tuned(self) -> PolicyResult:
        """The trained policy."""
        return self.policies[TUNED]

    @property
    def all_met(self) -> bool:
        """Whether every target that can be judged is met."""
        return all(value.met is not False for value in self.values.values())

    @property
    def kl_predicted(self) -> float:
        """KL(p_lam || p0) of the pilot's lambda, in nats."""
        return self.solution.kl

    def objective(self) -> float:
        """lam.(realized levels) - KL in nats, with the pilot's lam, so that different methods can be compared."""
        reward = sum(lam * self.values[name].realized.mean for name, lam in self.solution.lam.items())
        return reward - self.tuned.kl.mean

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        plain["values"] = {name: asdict(value) for name, value in self.values.items()}
        plain["policies"] = {name: asdict(policy) for name, policy in self.policies.items()}
        for name in ("kl_to_target", "price_ratio"):
            plain[name] = None if plain[name] is None else asdict(plain[name])
        return plain | {"solution": self.solution.to_dict()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Evaluation":
        """The evaluation that `to_dict` wrote."""
        return cls(
            **dict(plain)
            | {
                "values": {name: ValueResult.from_dict(value) for name, value in plain["values"].items()},
                "policies": {name: PolicyResult.from_dict(policy) for name, policy in plain["policies"].items()},
                "solution": DualSolution.from_dict(plain["solution"]),
                **{
                    name: Estimate(**plain[name]) if plain.get(name) else None
                    for name in ("kl_to_target", "price_ratio")
                },
            }
        )
