"""c_i = max(E_{p0} r_i, quantile_q(r_i)) over the base samples. Source: paper, remark 2."""

import numpy as np

from mapft.palette.matrix import ScoreMatrix
from mapft.palette.targets.kind import TargetKind
from mapft.utils.errors import UserError


def _quantile(matrix: ScoreMatrix, value: str, q: float) -> float:
    if not 0 <= q <= 1:
        raise UserError(f"the quantile {q} of value {value!r} is outside [0, 1]: write 80 % as 0.8.")
    return max(matrix.base[value], float(np.quantile(matrix.column(value), q)))


QUANTILES = TargetKind(
    _quantile, help="This quantile of the base scores, or their mean if it is higher.", unit="from 0 to 1"
)
