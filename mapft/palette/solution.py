"""The result of the dual solver: one type, a sentence for each status, conversion to and from JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mapft.palette.estimators import Estimator
from mapft.palette.feasibility import Certificate


class Status(StrEnum):
    """Outcome of the dual; `sentence` says what it means and what to do."""

    optimal = "optimal"
    infeasible = "infeasible"
    boundary = "boundary"

    @property
    def sentence(self) -> str:
        """The status as a sentence for the user."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.optimal: (
        "The palette is feasible: the policy p0 * exp(lam.r) / Z is predicted to meet every target "
        "at the least possible KL from the base policy."
    ),
    Status.infeasible: (
        "The palette is infeasible: no re-weighting of the base samples meets all its targets, as the certificate "
        "proves; lower a target or start from a base policy with higher scores."
    ),
    Status.boundary: (
        "The palette is on the boundary of the feasible levels, where the multipliers run to infinity; lower a target "
        "a little."
    ),
}


@dataclass(frozen=True)
class DualSolution:
    """Solution of the MAP dual for one palette; every dict is keyed by value name.

    lam: multipliers, nats per raw unit, >= 0; exactly 0 for a free value or a slack target.
    status: `sentence` explains it. Unless it is optimal there is no policy, and lam, predicted, kl, ess,
    duality_gap and kkt_residual are nan.
    margin: t*, the largest t for which all targets plus t sd are feasible; inf when only constant values are named.
    certificate: q >= 0 that proves infeasibility (`certificate.verify(matrix)`), else None.
    predicted: levels E_x E_{p_lam} r_i in raw units, free values included.
    kl: E_x KL(p_lam || p0) in nats. ess: effective sample size 1 / sum_n w_n^2, in rows.
    duality_gap: |lam.(predicted - c)| in nats. kkt_residual: max_i |min(lam_i, predicted_i - c_i)| in sd units.
    estimator: of E_x log Z. targets: the palette c. steps: Newton steps.
    single_samples: prompts with one sample, which do not show what a policy can change (`sentence`).
    Source: mapft/palette/README.md, "What is reported".
    """

    lam: dict[str, float]
    status: Status
    margin: float
    certificate: Certificate | None
    predicted: dict[str, float]
    kl: float
    ess: float
    duality_gap: float
    kkt_residual: float
    estimator: Estimator
    targets: dict[str, float]
    steps: int = 0
    single_samples: int = 0

    @property
    def sentence(self) -> str:
        """The status as a sentence, and what the samples do not show."""
        return " ".join(filter(None, (self.status.sentence, self.caution)))

    @property
    def caution(self) -> str:
        """Why a palette that counts as feasible may be infeasible; empty where every prompt has two samples or more."""
        if self.status is not Status.optimal or not self.single_samples:
            return ""
        return (
            f"Caution: {self.single_samples} prompts have one sample, which does not show whether the scores differ "
            "between responses to the same prompt; where they do not, no policy changes them and the palette is "
            "infeasible. Two samples per prompt (sampling.samples_per_prompt=2) decide it."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON: nan becomes None and an infinite number a string, which every JSON reader accepts."""
        return {
            "status": self.status.value,
            "sentence": self.sentence,
            "estimator": self.estimator,
            "targets": _encoded(self.targets),
            "lam": _encoded(self.lam),
            "predicted": _encoded(self.predicted),
            **_encoded({name: getattr(self, name) for name in _NUMBERS}),
            "steps": self.steps,
            "single_samples": self.single_samples,
            "certificate": None if self.certificate is None else _encoded(self.certificate),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DualSolution:
        """The solution that `to_dict` wrote."""
        targets, estimator = _decoded(plain["targets"]), plain["estimator"]
        weights = plain["certificate"]
        return cls(
            lam=_decoded(plain["lam"]),
            predicted=_decoded(plain["predicted"]),
            status=Status(plain["status"]),
            certificate=None if weights is None else Certificate(_decoded(weights), targets, estimator),
            estimator=estimator,
            targets=targets,
            steps=plain["steps"],
            single_samples=plain["single_samples"],
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
