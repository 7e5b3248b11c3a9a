"""A score that another machine computes: JSON over HTTP, as `mapft serve-rewards` serves it.

POST {url}    {"prompts": [x, ...], "responses": [y, ...], "columns": {NAME: [...]}}    ->    {"scores": [r, ...]}

"columns" is there if the setting `columns` names any.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mapft.config.fields import setting
from mapft.rewards.endpoint import Endpoint, EndpointScore
from mapft.rewards.score import NO_COLUMNS, Columns, DeclaredScore, WithoutWeights
from mapft.utils.errors import UserError
from mapft.utils.text import encodable

TOKEN_VARIABLE = "MAPFT_REWARD_TOKEN"  # environment variable with the server's token


@dataclass(frozen=True, kw_only=True)
class RemoteScore(DeclaredScore, EndpointScore):
    """r(x, y) = sign * the score that the server at `url` returns.

    A failed connection, a reply that is incomplete after `timeout`, and a temporary error status (429, 503, ...) are
    retried. The token, where the server requires one, is read from the environment variable MAPFT_REWARD_TOKEN.
    """

    url: str = setting(help="Address of the value on the server: http://host:port/score/NAME.")
    batch: int = setting(64, "Responses per request.", at_least=1, identity=False)
    address: ClassVar[str] = "http://host:port/score/NAME"
    token_variable: ClassVar[str] = TOKEN_VARIABLE
    if_too_long: ClassVar[str] = "set a smaller batch"

    @property
    def stored_rows(self) -> int:
        return self.batch

    def load(self, name: str) -> "RemoteScorer":
        return RemoteScorer(name, self)


class RemoteScorer(WithoutWeights):
    """Sends the texts to the server; one connection serves all batches of a call."""

    def __init__(self, name: str, settings: RemoteScore):
        self.name, self.settings, self.endpoint = name, settings, Endpoint(name, settings, settings.url)

    def score(self, prompts: Sequence[str], responses: Sequence[str], columns: Columns = NO_COLUMNS) -> np.ndarray:
        """(N,) float64."""
        scores: list[float] = []
        with self.endpoint.client() as client:
            for start in range(0, len(responses), self.settings.batch):
                rows = slice(start, start + self.settings.batch)
                x, y = (list(map(encodable, texts[rows])) for texts in (prompts, responses))
                content: dict[str, Any] = {"prompts": x, "responses": y}
                if columns:
                    content["columns"] = {name: list(values[rows]) for name, values in columns.items()}
                scores += self._scores(self.endpoint.post(client, content), len(y))
        return self.settings.sign * np.asarray(scores, dtype=float)

    def _scores(self, body: bytes, count: int) -> list[float]:
        try:
            scores = json.loads(body)["scores"]
            if not isinstance(scores, list) or not all(type(score) in (int, float) for score in scores):
                raise TypeError
            numbers = [float(score) for score in scores]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise self.endpoint.invalid(body, '{"scores": [one number per response]}') from error
        if len(numbers) != count:
            raise UserError(
                f"rewards.{self.name}: {self.settings.url} returned {len(numbers)} scores for {count} responses; it "
                "must return one per response."
            )
        return numbers
