"""c_i = E_{p0} r_i + a sd_i."""

from mapft.palette.targets.kind import TargetKind

SD = TargetKind(
    lambda matrix, value, number: matrix.base[value] + number * matrix.sd[value],
    help="The mean of the base scores plus this many of their standard deviations.",
    unit="base sd",
)
