"""Truth: hand arithmetic."""

from datasets import Dataset

from mapft.ppo import PPOConfig, PPOTrainer
from mapft.ppo.schedule import in_whole_iterations
from tests.ppo import tabular
from tests.ppo.trainers import QUIET_CPU, lora, make_trainer


def test_settings_can_serve_two_trainers(tmp_path):
    args = make_trainer(tmp_path, [tabular.TableReward(None)], total_episodes=1024).args
    shared = PPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=8, num_train_epochs=3, **QUIET_CPU)
    rest = {"args": shared, "processing_class": tabular.tokenizer()}
    steps = []
    for prompts in (tabular.PROMPTS, tabular.PROMPTS * 2):
        data = Dataset.from_dict({"prompt": prompts})
        trainer = PPOTrainer(
            tabular.model(), [tabular.TableReward(None)], train_dataset=data, peft_config=lora(), **rest
        )
        steps.append(trainer.args.max_steps)
    assert steps == [12, 24]
    assert args.max_steps == 16


def test_lengths_are_rounded_up_to_whole_iterations(tmp_path):
    """8 responses and 3 * 2 optimizer steps per iteration; 20 episodes are 3 iterations."""
    steps = {"per_device_train_batch_size": 4, "num_mini_batches": 2, "num_ppo_epochs": 3}
    args = PPOConfig(output_dir=str(tmp_path), total_episodes=20, save_steps=7, eval_steps=0.5, **steps, **QUIET_CPU)
    rounded = in_whole_iterations(args, prompts=100)
    assert (rounded.max_steps, rounded.save_steps, rounded.eval_steps) == (18, 12, 12)
    assert (args.max_steps, args.save_steps) == (-1, 7)
    by_steps = PPOConfig(output_dir=str(tmp_path), max_steps=13, **steps, **QUIET_CPU)
    assert in_whole_iterations(by_steps, prompts=100).max_steps == 18
