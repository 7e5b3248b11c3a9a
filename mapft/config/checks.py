"""What all settings share."""

from mapft.errors import UserError


def require(condition: bool, name: str, value: object, need: str) -> None:
    """UserError naming the setting, unless the condition holds. need: what it must be."""
    if not condition:
        raise UserError(f"{name}={value} is out of range; it must be {need}.")
