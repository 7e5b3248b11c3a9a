"""The palette: the target level of each value."""

import dataclasses
from typing import TYPE_CHECKING, Any

from mapft.config.fields import Settings, setting
from mapft.palette.targets import TARGETS
from mapft.utils.errors import UserError


class PaletteSettings(Settings):
    """A number for each value, in one kind of target; other values are free.

    The dataclass `PaletteConfig` has one field for each kind in TARGETS, {value: number}.
    """

    prefix = "palette"
    name: str

    def kinds(self) -> dict[str, dict[str, float]]:
        """{kind of target: {value: number}}, without the kinds that are not used."""
        return {kind: dict(getattr(self, kind)) for kind in TARGETS if getattr(self, kind)}

    def __post_init__(self) -> None:
        kinds = self.kinds()
        for value in sorted({value for numbers in kinds.values() for value in numbers}):
            own = [f"palette.{kind}" for kind, numbers in kinds.items() if value in numbers]
            if len(own) > 1:
                raise UserError(f"{value} has a target in {' and in '.join(own)}; keep one of them.")


if TYPE_CHECKING:
    PaletteConfig = PaletteSettings
else:
    name: Any = ("name", str, setting("custom", "Part of the run folder's name.", identity=False))
    kinds = [
        (kind, dict[str, float], setting(factory=dict, help=target.help, unit=target.unit))
        for kind, target in TARGETS.items()
    ]
    PaletteConfig = dataclasses.make_dataclass(
        "PaletteConfig",
        [name, *kinds],
        bases=(PaletteSettings,),
        kw_only=True,
        namespace={"__doc__": PaletteSettings.__doc__, "__module__": __name__},
    )
