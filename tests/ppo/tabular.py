"""A world in which everything can be enumerated: 8 tokens, at most 3 steps, 8 prompts, 400 responses each.

Source of truth for the PPO tests: log p0(y|x), p_lam(y|x), KL(pi||p_lam) and realized levels are computed exactly
from the model's own logits on every possible response. Shapes: P prompts, Y responses, V human values.
"""

import itertools
from functools import cache

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

WORDS = ["<pad>", "<eos>", "a", "b", "c", "d", "e", "f"]
EOS, STEPS = 1, 3
# None begins another, so every state has one meaning; none repeats a single token, which attention could not count.
PROMPTS = ["f a", "f b a", "f b c", "f c a b", "f c d", "f d", "f e a", "f e b"]


@cache
def responses() -> list[tuple[int, ...]]:
    """Every response: tokens up to and including EOS, or STEPS tokens."""
    found = []
    for length in range(1, STEPS + 1):
        for ids in itertools.product(range(len(WORDS)), repeat=length):
            if EOS not in ids[:-1] and (ids[-1] == EOS or length == STEPS):
                found.append(ids)
    return found


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def model(seed: int = 0, architecture: str = "llama") -> PreTrainedModel:
    """Two layers with random weights, scaled so that p0 is far from uniform; its own decoding defaults mislead."""
    torch.manual_seed(seed)
    special = {"vocab_size": len(WORDS), "pad_token_id": None, "bos_token_id": None, "eos_token_id": EOS}
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 16}
    untied = {"tie_word_embeddings": False}
    if architecture == "llama":
        config = LlamaConfig(
            **special, **shape, **untied, intermediate_size=128, initializer_range=0.15, attention_dropout=0.1
        )
    elif architecture == "gpt2":
        config = GPT2Config(**special, n_embd=64, n_layer=2, n_head=4, n_positions=16, initializer_range=0.15, **untied)
    elif architecture == "falcon":
        config = FalconConfig(**special, **shape, **untied, initializer_range=0.15, hidden_dropout=0.1)
    else:
        config = OPTConfig(
            **special, **shape, **untied, ffn_dim=128, word_embed_proj_dim=64, init_std=0.15, layerdrop=0.1
        )
    causal = AutoModelForCausalLM.from_config(config)
    causal.generation_config.update(
        do_sample=True, top_k=2, temperature=0.5, repetition_penalty=1.5, suppress_tokens=[2]
    )
    return causal.eval()


def scores(seed: int = 1, values: int = 2) -> np.ndarray:
    """r_PYV: a taste for each token at each place, partly the prompt's own, plus noise per response; sd 1 per value."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(1, STEPS, len(WORDS), values)) + 0.5 * rng.normal(
        size=(len(PROMPTS), STEPS, len(WORDS), values)
    )
    table = np.zeros((len(PROMPTS), len(responses()), values))
    for y, ids in enumerate(responses()):
        table[:, y] = sum(taste[:, t, token] for t, token in enumerate(ids))
    table += 0.05 * rng.normal(size=table.shape)
    return table / table.std(axis=(0, 1))


@torch.no_grad()
def log_probs(policy: torch.nn.Module, temperature: float = 1.0, heads: list[list[int]] | None = None) -> np.ndarray:
    """log p(y|x) of every response, (P, Y), float64: one forward pass per prompt on unpadded rows of full length.

    heads: the tokens of the prompts, by default of PROMPTS.
    """
    heads = [tokenizer()(prompt)["input_ids"] for prompt in PROMPTS] if heads is None else heads
    out = np.zeros((len(heads), len(responses())))
    for p, head in enumerate(heads):
        rows = torch.tensor([[*head, *ids, *[0] * (STEPS - len(ids))] for ids in responses()])
        logp = (policy(input_ids=rows).logits.double() / temperature).log_softmax(-1)
        for y, ids in enumerate(responses()):
            out[p, y] = sum(logp[y, len(head) - 1 + t, token].item() for t, token in enumerate(ids))
    return out


def tilted(log_p0: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """log of p0 exp(R)/Z per prompt."""
    log_p = log_p0 + reward
    return log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True)


def kl(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """Mean over prompts of KL(p||q), nats."""
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


class TableReward:
    """The table as a TRL reward function."""

    def __init__(self, table_PY: np.ndarray, name: str = "table"):
        self.table_PY, self.__name__ = table_PY, name
        self.index = {ids: y for y, ids in enumerate(responses())}

    def __call__(self, prompts: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
        rows = zip(prompts, completion_ids, strict=True)
        return [float(self.table_PY[PROMPTS.index(prompt), self.index[tuple(ids)]]) for prompt, ids in rows]
