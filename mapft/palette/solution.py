"""What the dual solver returns: one result type, each status a sentence, everything ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mapft.palette.estimators import Estimator
from mapft.palette.feasibility import Certificate


class Status(StrEnum):
    """Outcome of the dual; `sentence` says what it means and what to do. Only the sequential mode can be unfinished."""

    optimal = "optimal"
    infeasible = "infeasible"
    boundary = "boundary"
    unfinished = "unfinished"

    @property
    def sentence(self) -> str:
        """The status as a sentence for the user."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.optimal: (
        "The palette is attainable: the policy p0 * exp(lam.r) / Z realizes every target "
        "at the least possible KL from the base policy."
    ),
    Status.infeasible: (
        "No re-weighting of the base samples realizes these targets together, as the certificate shows: lower a "
        "target (adjust() names the nearest attainable palette) or sample a base policy that comes closer."
    ),
    Status.boundary: (
        "The targets lie on the very edge of what the base samples can realize, where the multipliers run to "
        "infinity: lower a target a little (adjust() does it)."
    ),
    Status.unfinished: (
        "The rounds of the sequential mode ran out before every target was met: the trace shows what is missing after "
        "each round, so allow more rounds."
    ),
}


@dataclass(frozen=True)
class DualSolution:
    """Solution of the MAP dual for one palette; every dict is keyed by value name.

    lam: multipliers, nats per raw unit, >= 0; exactly 0 for a free value or a slack target.
    status: `status.sentence` explains it. Where it is infeasible or boundary there is no policy, and lam, realized, kl,
    ess, duality_gap and kkt_residual are nan.
    margin: t* = largest t with all targets raised by t sd still attainable; inf when only constant values are named.
    certificate: q >= 0 proving infeasibility (`certificate.verify(matrix)`), None otherwise.
    realized: levels E_x E_{p_lam} r_i in raw units, free values included.
    kl: E_x KL(p_lam || p0) in nats. ess: 1 / sum_n w_n^2, in rows.
    duality_gap: |lam.(realized - c)| in nats. kkt_residual: max_i |min(lam_i, realized_i - c_i)| in sd units.
    estimator: of E_x log Z. targets: the palette c. steps: Newton steps, or rounds of the sequential mode.
    trace: min(lam_i, realized_i - c_i) in sd of every palette value after each round of the sequential mode.
    Source: method sections 1-4.
    """

    lam: dict[str, float]
    status: Status
    margin: float
    certificate: Certificate | None
    realized: dict[str, float]
    kl: float
    ess: float
    duality_gap: float
    kkt_residual: float
    estimator: Estimator
    targets: dict[str, float]
    steps: int = 0
    trace: tuple[dict[str, float], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON: nan becomes None and an infinite number its name, so that any JSON reader accepts it."""
        return {
            "status": self.status.value,
            "sentence": self.status.sentence,
            "estimator": self.estimator,
            "targets": _encoded(self.targets),
            "lam": _encoded(self.lam),
            "realized": _encoded(self.realized),
            **_encoded({name: getattr(self, name) for name in _NUMBERS}),
            "steps": self.steps,
            "trace": [_encoded(after_round) for after_round in self.trace],
            "certificate": None if self.certificate is None else _encoded(self.certificate),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DualSolution:
        """The solution that `to_dict` wrote."""
        targets, estimator = _decoded(plain["targets"]), plain["estimator"]
        proof = plain["certificate"]
        return cls(
            lam=_decoded(plain["lam"]),
            realized=_decoded(plain["realized"]),
            status=Status(plain["status"]),
            certificate=None if proof is None else Certificate(_decoded(proof), targets, estimator),
            estimator=estimator,
            targets=targets,
            steps=plain["steps"],
            trace=tuple(_decoded(after_round) for after_round in plain["trace"]),
            **_decoded({name: plain[name] for name in _NUMBERS}),
        )


_NUMBERS = ("margin", "kl", "ess", "duality_gap", "kkt_residual")


def _encoded(numbers: Mapping[str, float]) -> dict[str, float | str | None]:
    return {
        name: None if math.isnan(number) else number if math.isfinite(number) else str(number)
        for name, number in numbers.items()
    }


def _decoded(numbers: Mapping[str, float | str | None]) -> dict[str, float]:
    return {name: math.nan if number is None else float(number) for name, number in numbers.items()}
