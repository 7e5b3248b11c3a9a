"""The extrapolation from a few layers. Truth: the same passes with all layers, measured by the same tracker."""

import pytest

from mapft.planning import phases
from mapft.planning.phases import Phases
from tests.planning.models import settings
from tests.planning.test_batches import PROMPT, config


@pytest.mark.parametrize(
    "modules", ["all-linear", ".*[.][567][.].*(gate|up)_proj", ".*[.]3[.].*v_proj", ".*[.]7[.].*o_proj"]
)
def test_the_update_of_a_deep_model_is_extrapolated_from_its_layers_with_an_adapter(tmp_path, monkeypatch, modules):
    """8 layers; below the first one with an adapter no activations are kept."""
    plan = config(settings(tmp_path, "qwen2", f"adapter.target_modules='{modules}'"))
    extrapolated = updates(plan)
    monkeypatch.setattr(phases, "TRACED_LAYERS", (4, 8))
    assert extrapolated == pytest.approx(updates(plan), rel=0.02)


def updates(plan) -> list[float]:
    """Bytes without and with gradient checkpointing."""
    traced = Phases(plan, PROMPT)
    return [traced.update(8, checkpointing=checkpointing) for checkpointing in (False, True)]
