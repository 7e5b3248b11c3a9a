"""Tiny random models of the architectures that the presets name, in local folders."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
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


def causal_judge(folder: Path, name: str, labels: int = 1, **config) -> str:
    """A GPT-2 or Llama classifier as many are on the Hub: no pad token, neither in the tokenizer nor in the config."""
    words = tokenizer("</s>")
    torch.manual_seed(0)
    shape = (
        SHAPE | {"intermediate_size": 64, "num_key_value_heads": 2}
        if name == "llama"
        else {"n_embd": 32, "n_layer": 2, "n_head": 2}
    )
    make = LlamaConfig if name == "llama" else GPT2Config
    config |= {"vocab_size": len(words), "num_labels": labels, "initializer_range": 0.5, "eos_token_id": 0}
    model = AutoModelForSequenceClassification.from_config(make(**shape, **config, pad_token_id=None)).eval()
    model.save_pretrained(folder / name)
    words.save_pretrained(folder / name)
    return str(folder / name)


CHAT = (
    "{% for message in messages %}<|user|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|judge|>{% endif %}"
)


def judge(folder: Path, name: str, chat_template: str | None = CHAT, positions: int = 4096) -> str:
    """A Llama whose tokenizer has Yes and No with and without a leading space."""
    raw = Tokenizer(BPE())
    raw.pre_tokenizer, raw.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    special = ["<|user|>", "<|end|>", "<|judge|>"]
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(["Yes No", "No Yes"], trainer)
    words = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", extra_special_tokens=special)
    words.chat_template = chat_template
    torch.manual_seed(0)
    shape = SHAPE | {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": positions}
    config = LlamaConfig(**shape, vocab_size=len(words), initializer_range=0.5, eos_token_id=words.eos_token_id)
    AutoModelForCausalLM.from_config(config).eval().save_pretrained(folder / name)
    words.save_pretrained(folder / name)
    return str(folder / name)


def word_judge(folder: Path, name: str) -> str:
    """A Llama with 12 words, so that the 20 most likely tokens are all."""
    words = ["<unk>", "Yes", "No", "why", "so", "kind", "quiet", "the", "garden", "is", "<|end|>", "Answer"]
    raw = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    raw.pre_tokenizer = WhitespaceSplit()
    tokens = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="<|end|>")
    tokens.chat_template = "{% for message in messages %}{{ message.content }} <|end|> {% endfor %}"
    torch.manual_seed(0)
    shape = SHAPE | {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 512}
    config = LlamaConfig(**shape, vocab_size=len(words), initializer_range=0.5, eos_token_id=10)
    AutoModelForCausalLM.from_config(config).eval().save_pretrained(folder / name)
    tokens.save_pretrained(folder / name)
    return str(folder / name)


def paired_bert(folder: Path) -> str:
    """A BERT regression head and a tokenizer that marks the second segment, as a cross-encoder has them."""
    words = Tokenizer(WordLevel({"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "why": 3, "yes": 4, "no": 5, "[UNK]": 6}, "[UNK]"))
    words.pre_tokenizer = WhitespaceSplit()
    words.post_processor = TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    torch.manual_seed(0)
    shape = SHAPE | {"intermediate_size": 64, "vocab_size": 7, "num_labels": 1, "initializer_range": 0.5}
    AutoModelForSequenceClassification.from_config(BertConfig(**shape)).save_pretrained(folder / "paired")
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    fast = PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=inputs, **names)
    fast.save_pretrained(folder / "paired")
    return str(folder / "paired")


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
