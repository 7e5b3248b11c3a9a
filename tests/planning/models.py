"""Models with random weights whose responses all have the planned length."""

import json

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests import worlds

VOCABULARY = 32_768
LLAMA = {"hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 4, "num_attention_heads": 5}
MODELS = {
    "llama": lambda ends: LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **LLAMA, **ends)),
    "gpt2": lambda ends: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=320, n_layer=4, n_head=5, **ends)),
    "qwen2": lambda ends: Qwen2ForCausalLM(
        Qwen2Config(vocab_size=VOCABULARY, **LLAMA | {"num_hidden_layers": 8}, num_key_value_heads=1, **ends)
    ),
}


def settings(folder, name: str, *more: str) -> list[str]:
    """A model with random weights that never ends a response, so that every response has the planned length."""
    words = worlds.tokenizer("<|end|>")
    torch.manual_seed(0)
    MODELS[name]({"bos_token_id": words.eos_token_id, "eos_token_id": words.eos_token_id}).save_pretrained(folder / "m")
    words.save_pretrained(folder / "m")
    prompts = ({"question": "What do you think of the garden at night? " * 2 + str(i)} for i in range(48))
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in prompts))
    values = {
        "experiment": "own",
        "model.path": folder / "m",
        "data.path": folder / "prompts.jsonl",
        "data.column": "question",
        "data.pilot_prompts": 12,
        "data.max_prompt_tokens": 64,
        "rewards": "[]",
        "+rewards.vowels.kind": "function",
        "+rewards.vowels.target": "tests.worlds:vowels",
        "palette": "custom",
        "+palette.sd.vowels": 0.2,
        "dual.if_infeasible": "nearest",
        "sampling.max_new_tokens": 48,
        "sampling.samples_per_prompt": 8,
        "sampling.batch_size": 16,
        "trainer.total_episodes": 32,
        "trainer.num_ppo_epochs": 1,
        "output": folder / "runs",
    }
    return [*(f"{key}={value}" for key, value in values.items()), *more]
