"""c_i = the number itself."""

from mapft.palette.targets.kind import TargetKind

ABSOLUTE = TargetKind(lambda matrix, value, number: number, help="The target itself.", unit="of the score")
