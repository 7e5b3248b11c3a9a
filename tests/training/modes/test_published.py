"""Truth: the pooled dual, and hand arithmetic for the reward."""

import pytest

from mapft.palette import Palette, solve_dual
from mapft.training.modes.published import Published
from mapft.utils.errors import UserError
from tests.training.inputs import make_inputs, replace_fit


def test_the_reward_is_lam_r_of_the_pooled_dual_at_kl_coef_0_2(tmp_path, monkeypatch):
    """PaletteReward is kl_coef * lam.r, so lam / kl_coef gives lam.r."""
    calls = replace_fit(monkeypatch)
    mode = Published(name="published")
    inputs = make_inputs(tmp_path, mode)
    pooled = solve_dual(inputs.matrix, Palette({"a": 0.4, "b": 0.5}), estimator="pooled")
    mode.train(inputs)
    config, objective = calls[0].config, calls[0].objective
    assert config.trainer.kl_coef == 0.2
    for name, lam in pooled.lam.items():
        assert config.trainer.kl_coef * objective.lam[name] == pytest.approx(lam)
    assert config.refine.every is None


def test_a_palette_that_is_infeasible_for_the_pooled_dual_is_refused(tmp_path, monkeypatch):
    calls = replace_fit(monkeypatch)
    mode = Published(name="published")
    inputs = make_inputs(tmp_path, mode)
    inputs.solution.targets["a"] = 1e3
    with pytest.raises(UserError, match="The published recipe has no lambda for this palette: "):
        mode.train(inputs)
    assert calls == []
