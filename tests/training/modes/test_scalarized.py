"""Truth: lam of `at_kl`, whose own tests have a closed form."""

from dataclasses import replace

import pytest

from mapft.palette import at_kl
from mapft.training.modes.scalarized import Scalarized
from mapft.utils.errors import UserError
from tests.configs import make_config
from tests.training.inputs import make_inputs, replace_fit


def test_lam_has_the_kl_of_the_palettes_optimum_and_is_not_refined(tmp_path, monkeypatch):
    calls = replace_fit(monkeypatch)
    mode = Scalarized(name="scalarized", weights={"b": 2.0})
    inputs = make_inputs(tmp_path, mode)
    lam = mode.train(inputs)
    config, objective = calls[0].config, calls[0].objective
    assert objective.lam == lam == {"a": 0.0, "b": at_kl(inputs.matrix, {"b": 1.0}, inputs.solution.kl)["b"]}
    assert objective.reference_lam == {"a": 0.0, "b": 0.0}
    assert objective.targets == inputs.solution.targets
    assert config.refine.every is None
    assert config.trainer.kl_coef == 1.0
    replace(mode, kl=0.05).train(inputs)
    assert calls[1].objective.lam["b"] == at_kl(inputs.matrix, {"b": 1.0}, 0.05)["b"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "mode.weights={} is invalid; it must be a weight above 0 for at least one value"),
        ({"a": 1.0, "b": -0.5}, "mode.weights.b=-0.5 is invalid; it must be at least 0"),
        ({"a": 1.0, "c": 1.0}, r"mode.weights names c, which has no reward \(rewards: a, b\)"),
    ],
)
def test_invalid_weights_are_refused(weights, message):
    with pytest.raises(UserError, match=message):
        make_config(mode=Scalarized(name="scalarized", weights=weights))
