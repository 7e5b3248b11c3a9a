"""Truth: files that a killed run leaves on disk, and the uninterrupted run."""

import shutil

import pytest
import torch
from transformers import TrainerCallback

from mapft.ppo.checkpoint import newest_complete
from mapft.ppo.critic import OPTIMIZER
from mapft.ppo.schedule import Progress
from tests.ppo.trainers import Record, make_trainer, table_reward


def test_an_incomplete_checkpoint_is_skipped_with_a_warning(tmp_path):
    assert newest_complete(tmp_path / "none") is None
    for step, complete in ((8, True), (16, True), (104, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / OPTIMIZER).touch()
    (tmp_path / "checkpoint-8-best").mkdir()
    with pytest.warns(UserWarning, match="checkpoint-104 is incomplete; training continues from checkpoint-16"):
        assert newest_complete(tmp_path) == str(tmp_path / "checkpoint-16")


def test_only_incomplete_checkpoints_give_none(tmp_path):
    (tmp_path / "checkpoint-8").mkdir()
    assert newest_complete(tmp_path) is None


def test_resumed_run_equals_the_uninterrupted_one(tmp_path):
    """Stop after the first of three iterations; adapter and critic end bit for bit the same on CPU in fp32."""
    reward = table_reward()
    settings = {"total_episodes": 3 * 256, "save_strategy": "steps", "save_steps": 1, "num_mini_batches": 2}
    settings["per_device_train_batch_size"] = 128
    straight = make_trainer(tmp_path / "a", [reward], **settings)
    straight.train()
    shutil.copytree(tmp_path / "a/checkpoint-8", tmp_path / "b/checkpoint-8")
    record = Record()
    resumed = make_trainer(tmp_path / "b", [reward], logging_steps=1, **settings)
    resumed.add_callback(record)
    resumed.train()
    assert sum("objective/kl" in log for log in record.logs) == 2  # rollouts: not the first one again
    assert resumed.state.global_step == straight.state.global_step == 24
    for (name, one), (_, two) in zip(straight.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert torch.equal(one, two), name
    for one, two in zip(straight.critic.state_dict().values(), resumed.critic.state_dict().values(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(("before", "after"), [(64, 128), (128, 64)])
def test_another_number_of_processes_continues_with_the_next_prompts(tmp_path, before, after):
    """Two processes have iterations of twice the size; the same as a micro-batch of twice the size.

    Of 512 responses, 128 are learnt from before and 384 after, in whole iterations, on the prompts of one stream.
    """
    table, seen, record = table_reward(), [], Record()

    def reward(prompts, completion_ids, **_):
        seen.extend(prompts)
        return table(prompts, completion_ids)

    settings = {"total_episodes": 512, "save_strategy": "steps", "save_steps": 128 // before * 4, "logging_steps": 1}
    make_trainer(tmp_path / "whole", [reward], **settings | {"per_device_train_batch_size": 512}).train()
    stream = [*seen]
    make_trainer(tmp_path / "a", [reward], per_device_train_batch_size=before, **settings).train()
    checkpoint = f"checkpoint-{settings['save_steps']}"
    shutil.copytree(tmp_path / "a" / checkpoint, tmp_path / "b" / checkpoint)
    trainer = make_trainer(tmp_path / "b", [reward], per_device_train_batch_size=after, **settings)
    trainer.add_callback(record)
    seen.clear()
    trainer.train()
    assert seen == stream[128:]
    assert trainer.state.max_steps == (128 // before + 384 // after) * 4
    episodes = [log["episodes"] for log in record.logs if "objective/kl" in log]
    assert episodes == list(range(128 + after // 4, 512, after))  # after the first of four steps
    assert trainer.progress == Progress(128 // before + 384 // after, 0, episodes=512, prompts=512)


def test_no_checkpoint_falls_within_an_iteration(tmp_path):
    class Save(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_save = True

    settings = {"save_strategy": "steps", "save_steps": 100, "total_episodes": 512, "logging_steps": 100}
    trainer = make_trainer(tmp_path, [table_reward()], **settings)
    trainer.add_callback(Save())
    trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]
