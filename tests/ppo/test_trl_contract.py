"""The private members of TRL 1.16 that PPOTrainer overrides or calls, with the parameters it relies on.

When this fails, TRL has changed underneath: read its GRPOTrainer again before widening the pin in pyproject.toml.
"""

import inspect

import pytest
import transformers.integrations.deepspeed
import transformers.trainer
from trl import GRPOTrainer
from trl.trainer import grpo_trainer
from trl.trainer.utils import add_fused_lm_head, use_adapter

MEMBERS = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_compute_loss": ["self", "model", "inputs"],
    "_get_train_sampler": ["self", "dataset"],
    "_generate": ["self", "prompts"],
    "_generate_single_turn": [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_save_optimizer_and_scheduler": ["self", "output_dir"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "_get_output_dir": ["self", "trial"],
}
ATTRIBUTES = [
    "_tokenizer",
    "generation_config",
    "_step",
    "_metrics",
    "_logs",
    "_pending_metrics",
    "_pending_extra_logs",
    "eos_token_ids",
    "ref_model",
    "reward_func_names",
    "reward_weights",
    "num_iterations",
    "max_completion_length",
]


@pytest.mark.parametrize("name", MEMBERS)
def test_methods_have_the_parameters_we_rely_on(name):
    parameters = list(inspect.signature(inspect.unwrap(getattr(GRPOTrainer, name))).parameters)
    assert parameters == MEMBERS[name], f"TRL changed GRPOTrainer.{name}; PPOTrainer must follow."


def test_deepspeed_is_asked_by_the_name_that_is_replaced_while_a_checkpoint_loads():
    source = inspect.getsource(transformers.trainer.Trainer)
    assert "deepspeed_load_checkpoint(" in source
    assert hasattr(transformers.trainer, "deepspeed_load_checkpoint")
    assert hasattr(transformers.integrations.deepspeed, "_hf_deepspeed_config_weak_ref")


def test_attributes_are_still_set_by_the_constructor():
    source = inspect.getsource(GRPOTrainer.__init__)
    missing = [name for name in ATTRIBUTES if f"self.{name}" not in source]
    assert not missing, f"TRL's GRPOTrainer no longer sets {missing}; PPOTrainer must follow."


def test_generate_returns_what_we_unpack():
    returned = inspect.getsource(GRPOTrainer._generate).rsplit("return ", 1)[1]
    assert [name.strip() for name in returned.split(",")][:5] == [
        "prompt_ids",
        "completion_ids",
        "tool_mask",
        "completions",
        "logprobs",
    ]


def test_fused_lm_head_scores_shifted_labels_without_shifting():
    source = inspect.getsource(add_fused_lm_head)
    assert "if shift_labels is None:" in source
    assert "getattr(self, backbone_attr)(*args, **kwargs)" in source
    assert "use_adapter" in vars(grpo_trainer)
    assert list(inspect.signature(use_adapter).parameters) == ["model", "adapter_name"]
