"""Scores for the tests of the page."""

import numpy as np

from mapft.palette import ScoreMatrix


def matrix(rows: int = 400, values: int = 3, per_prompt: int = 8) -> ScoreMatrix:
    """Correlated normal scores."""
    rng = np.random.default_rng(3)
    mixing = np.eye(values) - 0.25 * (1 - np.eye(values))
    names = [f"value_{number}" for number in range(values)]
    return ScoreMatrix(
        rng.normal(size=(rows, values)) @ mixing, names, np.repeat(np.arange(rows // per_prompt), per_prompt)
    )
