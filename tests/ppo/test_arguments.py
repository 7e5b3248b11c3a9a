"""Truth: what makes the base without adapter the reference p0."""

import pytest
from datasets import Dataset
from peft import PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from mapft.ppo import PPOConfig, PPOTrainer
from mapft.utils.errors import UserError
from tests.ppo import tabular
from tests.ppo.trainers import QUIET_CPU, lora, make_trainer


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


def test_adapters_that_trl_would_drop_or_not_train_are_refused(tmp_path):
    tabular.model().save_pretrained(tmp_path / "base")
    base, folder = str(tmp_path / "base"), str(tmp_path / "adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora()).save_pretrained(folder)
    plain, other = (AutoModelForCausalLM.from_pretrained(base) for _ in range(2))
    for model, message in (
        (folder, "has an adapter inside, which training would drop"),
        (AutoModelForCausalLM.from_pretrained(folder), "has an adapter inside, which training would drop"),
        (PeftModel.from_pretrained(plain, folder), "nothing would be trained; load it with .* is_trainable=True"),
        (PeftModel.from_pretrained(other, folder, "sft", is_trainable=True), "is called sft, but TRL trains"),
    ):
        with pytest.raises(UserError, match=message):
            make_trainer(tmp_path, [tabular.TableReward(None)], model, peft_config=None)


def test_tools_and_streamed_datasets_are_refused(tmp_path):
    args = PPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=8, **QUIET_CPU)
    rows = Dataset.from_dict({"prompt": tabular.PROMPTS})
    with pytest.raises(UserError, match="tools is set, but PPOTrainer does not support tools"):
        PPOTrainer(tabular.model(), [tabular.TableReward(None)], args, rows, tools=[print])
    with pytest.raises(UserError, match="train_dataset is a IterableDataset, .* give a datasets.Dataset"):
        PPOTrainer(tabular.model(), [tabular.TableReward(None)], args, rows.to_iterable_dataset())
