"""Tiny models with random weights of the architectures that AutoModelForCausalLM knows."""

import inspect
from functools import cache
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from tests import worlds

VOCABULARY = 512  # more than the tokenizer has
# Every name that a config may use for a size; those that it does not have are left out.
SIZES = (
    dict.fromkeys(["hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim"], 32)
    | dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"], 2)
    | dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"], 4)
    | dict.fromkeys(["encoder_attention_heads", "num_experts", "num_local_experts", "n_routed_experts"], 4)
    | dict.fromkeys(["head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"], 8)
    | dict.fromkeys(["intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "d_ff"], 64)
    | dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size", "embedding_size"], 16)
    | dict.fromkeys(["q_lora_rank", "kv_lora_rank"], 16)
    | dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx"], 64)
    | dict.fromkeys(["initializer_range", "init_std"], 0.3)
    | dict.fromkeys(["n_group", "topk_group", "first_k_dense_replace"], 1)
    | {"num_key_value_heads": 2, "num_experts_per_tok": 2, "is_decoder": True}
    | {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
)
LATENT = {"num_key_value_heads": 4}  # attention on a latent vector has a key for every head
SMALL = {"initializer_range": 0.1}  # the larger weights of SIZES make rounding visible
LINEAR = SMALL | {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
INDEXED = {
    "layer_types": ["linear_attention", "indexed_attention"],
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 32,
    "indexer_compress_ratio": 2,
}
CONVOLUTION = {"layer_types": ["conv", "full_attention"]}
OWN_SIZES = {
    **dict.fromkeys(["axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite"], LATENT),
    **dict.fromkeys(["glm_moe_dsa", "minicpm3", "sarvam_mla", "youtu"], LATENT),
    "bailing_hybrid": LATENT | LINEAR,
    "kimi_linear": LATENT | LINEAR | {"linear_num_heads": 4, "linear_head_dim": 8},
    **dict.fromkeys(["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid"], LINEAR),
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 8},
    "dots1": {"n_shared_experts": 1},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 64},
    "gemma4_text": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY},
    "gemma3n_text": {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": VOCABULARY},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": MAMBA | {"layer_types": ["mamba", "attention"]},
    "inkling2_loop_text": {"unpadded_vocab_size": VOCABULARY},
    "inkling2_text": {"unpadded_vocab_size": VOCABULARY},
    "hrm_text": SMALL,
    "jamba": SMALL | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4},
    "lfm2_moe": CONVOLUTION | {"num_dense_layers": 1},
    "lfm3": CONVOLUTION,
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1, "state_size": 16, "chunk_size": 8},
    "rembert": SMALL,
    "qwen4_exp_text": LINEAR | INDEXED,
    "recurrent_gemma": SMALL
    | {"block_types": ("recurrent", "attention"), "lru_width": 32, "attention_window_size": 32},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"]},
    "xmod": {"default_language": "en_XX"},
    "zaya": SMALL | {"num_experts_per_tok": 1},
}


def write(kind: str, folder: Path) -> None:
    """A model of this type and its tokenizer, as a folder of transformers; ValueError for one with over 5M weights."""
    config_class = CONFIG_MAPPING[kind]
    names = {*inspect.signature(config_class.__init__).parameters, *vars(config_class())}
    config = config_class(**{name: size for name, size in SIZES.items() if name in names} | OWN_SIZES.get(kind, {}))
    with torch.device("meta"):
        if AutoModelForCausalLM.from_config(config).num_parameters() > 5e6:
            raise ValueError(f"{kind} has parts whose size these settings do not set")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as the tokenizers of many model types expect; EOS is also the padding token."""
    return worlds.tokenizer("<|end|>")
