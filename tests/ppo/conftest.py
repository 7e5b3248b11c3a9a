"""The tabular world, enumerated once per module."""

import pytest

from tests.ppo import tabular
from tests.ppo.trainers import LAM


@pytest.fixture(scope="module")
def world():
    """log p0 (P, Y), scores (P, Y, V) and log p_lam (P, Y)."""
    log_p0, scores = tabular.log_probs(tabular.model()), tabular.scores()
    return log_p0, scores, tabular.tilted(log_p0, scores @ LAM)
