"""Truth: what a killed run leaves on disk."""

import pytest

from mapft.ppo.checkpoint import newest_whole
from mapft.ppo.critic import OPTIMIZER


def test_a_torn_checkpoint_is_passed_over_with_a_warning(tmp_path):
    assert newest_whole(tmp_path / "none") is None
    for step, whole in ((8, True), (16, True), (104, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / OPTIMIZER).touch()
    (tmp_path / "checkpoint-8-best").mkdir()
    with pytest.warns(UserWarning, match="checkpoint-104 is torn, so training goes on from checkpoint-16"):
        assert newest_whole(tmp_path) == str(tmp_path / "checkpoint-16")


def test_only_torn_checkpoints_are_none(tmp_path):
    (tmp_path / "checkpoint-8").mkdir()
    assert newest_whole(tmp_path) is None
