"""Truth: what makes the base without adapter the reference p0."""

import pytest
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig

from mapft.ppo import PPOConfig, PPOTrainer
from mapft.utils.errors import UserError
from tests.ppo import tabular
from tests.ppo.trainers import QUIET_CPU, make_trainer


@pytest.mark.parametrize("initialisation", ["pissa", "olora"])
def test_an_adapter_that_rewrites_the_base_is_refused(tmp_path, initialisation):
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=initialisation)
    with pytest.raises(UserError, match=f"init_lora_weights={initialisation} rewrites the base"):
        make_trainer(tmp_path, [tabular.TableReward(None)], peft_config=adapter)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"peft_config": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)},
            "adds tokens before the prompt",
        ),
        ({"peft_config": None}, "neither an adapter nor a path"),
    ],
)
def test_policies_without_a_reference_are_refused(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        make_trainer(tmp_path, [tabular.TableReward(None)], **arguments)


def test_tools_and_streamed_datasets_are_refused(tmp_path):
    args = PPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=8, **QUIET_CPU)
    rows = Dataset.from_dict({"prompt": tabular.PROMPTS})
    with pytest.raises(UserError, match="tools is set, but PPOTrainer does not support tools"):
        PPOTrainer(tabular.model(), [tabular.TableReward(None)], args, rows, tools=[print])
    with pytest.raises(UserError, match="train_dataset is a IterableDataset, .* give a datasets.Dataset"):
        PPOTrainer(tabular.model(), [tabular.TableReward(None)], args, rows.to_iterable_dataset())
