"""Whether a response is JSON, and matches a schema."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mapft.config.fields import setting
from mapft.rewards.text_score import TextScore
from mapft.utils.errors import UserError

FENCE = re.compile(r"```(?:json)?\s(.*)```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class FormatScore(TextScore):
    """r(x, y) = sign * (1 if the response is JSON that matches the schema, 0.5 if it is other JSON, else 0).

    A Markdown fence ```json ... ``` around the JSON is ignored.
    """

    schema: dict[str, Any] = setting(factory=dict, help="A JSON schema; empty: any JSON matches.")
    unit = "validity"
    raw_bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schema:
            try:
                import jsonschema
            except ImportError as error:
                raise UserError("schema needs the package jsonschema; pip install 'mapft[format]'.") from error
            try:
                jsonschema.validators.validator_for(self.schema).check_schema(self.schema)
            except jsonschema.SchemaError as error:
                raise UserError(f"schema is not a valid JSON schema: {error.message}.") from error

    @cached_property
    def _validator(self) -> Any:
        import jsonschema

        return jsonschema.validators.validator_for(self.schema)(self.schema)

    def score_one(self, prompt: str, response: str) -> float:
        fenced = FENCE.fullmatch(response.strip())
        try:
            content = json.loads(fenced[1] if fenced else response, parse_constant=_reject_constant)
        except (ValueError, RecursionError):
            return 0.0
        return 1.0 if not self.schema or self._matches_schema(content) else 0.5

    def _matches_schema(self, content: Any) -> bool:
        from referencing.exceptions import Unresolvable

        try:
            return self._validator.is_valid(content)
        except RecursionError:  # nested deeper than a recursive schema can be followed
            return False
        except Unresolvable as error:
            raise UserError(
                f"schema refers to {error.ref!r}, which it does not define; define it, or remove the $ref."
            ) from error


def _reject_constant(constant: str) -> None:
    """NaN and Infinity, which Python's parser accepts."""
    raise ValueError(f"{constant} is not JSON")
