"""Truth: the closed form of Gaussian scores, and of a score of 0 and 1 that are equally likely."""

import numpy as np
import pytest

from mapft.palette import ScoreMatrix, at_kl
from mapft.utils.errors import UserError
from tests.training.inputs import COV, gaussian_matrix


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 1.0, "b": 1.0}, {"b": 0.2, "a": 0.6}])
def test_lam_has_the_direction_and_the_kl(weights):
    lam = at_kl(gaussian_matrix(), weights, 0.3, estimator="pooled")
    lam_V = np.array([lam.get("a", 0.0), lam.get("b", 0.0)])
    assert lam_V @ COV @ lam_V / 2 == pytest.approx(0.3, rel=0.03)
    per_sd = lam_V * np.sqrt(np.diag(COV))
    expected = np.array([weights.get("a", 0.0), weights.get("b", 0.0)])
    np.testing.assert_allclose(per_sd / per_sd.sum(), expected / expected.sum(), atol=0.01)


@pytest.mark.parametrize(
    ("weights", "kl", "message"),
    [
        ({"a": -1.0}, 0.3, "a=-1.0 give no direction"),
        ({"a": 0.0}, 0.3, "are all 0 and give no direction"),
        ({"c": 1.0}, 0.3, "has no value c"),
        ({"a": 1.0}, 0.0, "kl=0.0 is invalid"),
        ({"flat": 1.0}, 0.3, "scores of flat are constant"),
    ],
)
def test_invalid_weights_and_kl_are_refused(weights, kl, message):
    matrix = ScoreMatrix([[0.0, 2.0], [1.0, 2.0], [2.0, 2.0], [0.0, 2.0]], ["a", "flat"], [0, 0, 1, 1])
    with pytest.raises(UserError, match=message):
        at_kl(matrix, weights, kl)


def test_a_kl_that_no_policy_on_the_samples_has_is_refused():
    """Scores 0 and 1, equally likely: the largest KL is log 2 = .693."""
    matrix = ScoreMatrix(np.array([[0.0], [1.0]] * 50), ["a"], np.repeat(np.arange(50), 2))
    assert at_kl(matrix, {"a": 1.0}, 0.6, estimator="pooled")["a"] < 10
    with pytest.raises(UserError, match="cannot be reached on these samples in the direction of a"):
        at_kl(matrix, {"a": 1.0}, 0.7, estimator="pooled")
