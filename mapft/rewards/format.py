"""Whether a response is what a machine can read: JSON, and of a given shape."""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mapft.errors import UserError
from mapft.rewards.plain import PlainScore

FENCE = re.compile(r"```(?:json)?\s(.*)```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class FormatScore(PlainScore):
    """r(x, y) = sign * (1 if the response is JSON that the schema allows, .5 if it is other JSON, else 0).

    schema: a JSON schema; empty allows any JSON. A fence ```json ... ``` around it is passed over.
    """

    schema: dict[str, Any] = field(default_factory=dict)
    sign: float = 1.0
    unit = "validity"

    def __post_init__(self) -> None:
        if self.schema:
            try:
                import jsonschema
            except ImportError as error:
                raise UserError("schema needs the package jsonschema; pip install 'mapft[format]'.") from error
            try:
                jsonschema.validators.validator_for(self.schema).check_schema(self.schema)
            except jsonschema.SchemaError as error:
                raise UserError(f"schema is no JSON schema: {error.message}.") from error

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, self.sign) if self.sign > 0 else (self.sign, 0.0)

    @cached_property
    def _validator(self) -> Any:
        import jsonschema

        return jsonschema.validators.validator_for(self.schema)(self.schema)

    def one(self, prompt: str, response: str) -> float:
        fenced = FENCE.fullmatch(response.strip())
        try:
            content = json.loads(fenced[1] if fenced else response, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return 0.0
        return 1.0 if not self.schema or self._fits(content) else 0.5

    def _fits(self, content: Any) -> bool:
        from referencing.exceptions import Unresolvable

        try:
            return self._validator.is_valid(content)
        except RecursionError:  # nested deeper than a recursive schema can follow
            return False
        except Unresolvable as error:
            raise UserError(
                f"schema refers to {error.ref!r}, which is not in it; define it, or drop the $ref."
            ) from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
