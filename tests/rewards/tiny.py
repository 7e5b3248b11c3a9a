"""Tiny random models of the architectures that the presets name, in local folders."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    Qwen2Config,
)

from tests.worlds import tokenizer

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}


def save(folder: Path, name: str, make, config, eos: str = "[SEP]") -> str:
    """A model made from the config, beside a byte-level tokenizer; returns its folder."""
    words = tokenizer(eos)
    words.pad_token = eos
    torch.manual_seed(0)
    config.vocab_size, config.pad_token_id, config.eos_token_id = len(words), words.eos_token_id, words.eos_token_id
    model = make(config).eval()
    model.save_pretrained(folder / name)
    words.save_pretrained(folder / name)
    return str(folder / name)


def presets(folder: Path) -> dict[str, str]:
    """Folder by value: the architecture of each preset's model."""
    classify, causal = AutoModelForSequenceClassification.from_config, AutoModelForCausalLM.from_config
    distil = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 512}
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512, "num_labels": 1}
    opt = SHAPE | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 512}
    bert = SHAPE | {"intermediate_size": 64, "max_position_embeddings": 512}
    wide = {"initializer_range": 0.5}
    return {
        "humor": save(folder, "humor", classify, DistilBertConfig(**distil, num_labels=2, **wide)),
        "positive": save(folder, "positive", classify, DistilBertConfig(**distil, num_labels=2, **wide)),
        "helpful": save(folder, "helpful", classify, GPT2Config(**gpt2, **wide)),
        "harmless": save(folder, "harmless", classify, GPT2Config(**gpt2, **wide)),
        "coherence": save(folder, "coherence", BertModel, BertConfig(**bert, **wide)),
        "perplexity": save(folder, "perplexity", causal, OPTConfig(**opt, init_std=0.3)),
    }


def policies(folder: Path) -> dict[str, str]:
    """Folder by model preset."""
    causal = AutoModelForCausalLM.from_config
    llama = SHAPE | {"intermediate_size": 64, "num_key_value_heads": 2}
    return {
        "opt_1_3b": save(folder, "opt", causal, OPTConfig(**SHAPE, ffn_dim=64, word_embed_proj_dim=32), "</s>"),
        "llama2_7b_chat": save(folder, "llama", causal, LlamaConfig(**llama), "</s>"),
        "qwen2_5_1_5b_instruct": save(folder, "qwen", causal, Qwen2Config(**llama), "</s>"),
    }
