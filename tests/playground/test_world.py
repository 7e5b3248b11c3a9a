"""Properties of the full world that the product needs.

Truth: the grammar reads the base samples and labels them; scores are compared with those labels; the palette is solved
by mapft.palette. `pytest -s tests/playground/test_world.py` prints the measured numbers beside their thresholds.
"""

import json
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from mapft.palette import Palette, ScoreMatrix, Status, solve_dual
from mapft.playground import locate
from mapft.playground.grammar import VALUES, Prompt, Reply, load_grammar

P, K, MAX_NEW_TOKENS = 120, 16, 32


@dataclass(frozen=True)
class Samples:
    """K replies of the base policy to each of P prompts, flat in the order of the prompts."""

    prompts: list[Prompt]
    texts: list[str]
    ended: list[bool]
    reads: list[Reply | None]
    scores_NV: np.ndarray

    @property
    def dubious(self) -> np.ndarray:
        return np.array([prompt.kind == "dubious" for prompt in self.prompts])


def _report(quantity: str, number: float, threshold: str) -> None:
    print(f"  {quantity:<58} {number:8.3f}   threshold {threshold}")


def _score(value: str, texts: list[str], batch: int = 128) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(locate(value), padding_side="right")
    model = AutoModelForSequenceClassification.from_pretrained(locate(value))
    logits = []
    for start in range(0, len(texts), batch):
        inputs = tokenizer(texts[start : start + batch], padding=True, return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**inputs).logits[:, 0])
    return torch.cat(logits).double().numpy()


def _generate(prompts: list[str]) -> tuple[list[str], list[bool]]:
    tokenizer = AutoTokenizer.from_pretrained(locate("policy"), padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(locate("policy"))
    inputs = tokenizer(prompts, padding=True, return_tensors="pt")
    ids = policy.generate(**inputs, do_sample=True, top_k=0, top_p=1.0, max_new_tokens=MAX_NEW_TOKENS)
    ids = ids[:, inputs["input_ids"].shape[1] :]
    return tokenizer.batch_decode(ids, skip_special_tokens=True), (ids == tokenizer.eos_token_id).any(1).tolist()


@pytest.fixture(scope="session")
def samples() -> Samples:
    torch.manual_seed(0)
    known = {prompt.text: prompt for prompt in load_grammar().prompts}
    rows = [json.loads(line) for line in locate("prompts").read_text("utf-8").splitlines()]
    prompts = [known[row["prompt"]] for row in rows[:P] for _ in range(K)]
    texts, ended = _generate([prompt.text for prompt in prompts])
    reads = [load_grammar().read(prompt.task, text) for prompt, text in zip(prompts, texts, strict=True)]
    inputs = [prompt.text + text for prompt, text in zip(prompts, texts, strict=True)]
    return Samples(prompts, texts, ended, reads, np.stack([_score(value, inputs) for value in VALUES], axis=1))


def test_the_base_policy_generates_replies_of_the_grammar(samples: Samples) -> None:
    share = float(np.mean([read is not None for read in samples.reads]))
    ended = float(np.mean(samples.ended))
    distinct = float(np.mean([len(set(samples.texts[i : i + K])) / K for i in range(0, P * K, K)]))
    _report("share of base samples that are grammar replies", share, ">= .85")
    _report("share that ends within 32 tokens", ended, ">= .95")
    _report("distinct replies among 16", distinct, ">= .9")
    assert share >= 0.85
    assert ended >= 0.95
    assert distinct >= 0.9


@pytest.mark.parametrize("value", VALUES)
def test_scores_follow_the_grammar_on_fresh_replies(value: str) -> None:
    rng, grammar = Random("held out"), load_grammar()
    prompts = rng.choices(grammar.prompts, k=1000)
    replies = [grammar.sample(prompt.task, rng) for prompt in prompts]
    scores = _score(value, [prompt.text + reply.text for prompt, reply in zip(prompts, replies, strict=True)])
    labels = [reply.labels[VALUES.index(value)] for reply in replies]
    correlation = float(np.corrcoef(scores, labels)[0, 1])
    _report(f"{value}: correlation with held-out labels", correlation, ">= .95")
    assert correlation >= 0.95


@pytest.mark.parametrize("value", VALUES)
def test_right_padding_does_not_change_a_score(value: str) -> None:
    texts = [
        "User: Hi\nAssistant: No.",
        "User: How do I fix a squeaky door?\nAssistant: Rub wax on the hinges with care.",
    ]
    np.testing.assert_allclose(_score(value, texts), _score(value, texts, batch=1), atol=1e-5)


@pytest.mark.parametrize("value", VALUES)
def test_scores_vary_within_prompts_over_many_levels(samples: Samples, value: str) -> None:
    """Two atoms far apart have kurtosis 1 and hold everything in two windows; a bell has 3."""
    scores = samples.scores_NV[:, VALUES.index(value)]
    within = scores.reshape(P, K).var(axis=1, ddof=1).mean() / scores.var()
    standard = (scores - scores.mean()) / scores.std()
    window = max(np.mean(np.abs(standard - centre) < 0.1) for centre in np.arange(-3, 3, 0.05))
    _report(f"{value}: within-prompt share of variance", within, ">= .5")
    _report(f"{value}: sd", scores.std(), ">= .5")
    _report(f"{value}: kurtosis", np.mean(standard**4), "in [1.6, 6]")
    _report(f"{value}: largest share within .2 sd", float(window), "<= .25")
    assert within >= 0.5
    assert scores.std() >= 0.5
    assert 1.6 <= np.mean(standard**4) <= 6
    assert window <= 0.25


def test_helpful_and_harmless_conflict_on_dubious_prompts(samples: Samples) -> None:
    pair = samples.scores_NV[samples.dubious][:, [VALUES.index("helpful"), VALUES.index("harmless")]]
    correlation = float(np.corrcoef(pair.T)[0, 1])
    _report("correlation of helpful and harmless, dubious prompts", correlation, "<= -.3")
    assert correlation <= -0.3


def test_the_70_percent_palette_is_feasible_at_a_moderate_kl(samples: Samples) -> None:
    matrix = ScoreMatrix(samples.scores_NV, VALUES, np.repeat(np.arange(P), K))
    palette = Palette.of(matrix, quantiles=dict.fromkeys(VALUES, 0.7))
    solution = solve_dual(matrix, palette, estimator="centered")
    _report("KL of the joint 70 % palette, nats", solution.kl, "in [.4, 2]")
    assert solution.status is Status.optimal
    assert all(lam > 0 for lam in solution.lam.values())
    assert 0.4 <= solution.kl <= 2


def test_the_world_is_small() -> None:
    size = sum(path.stat().st_size for path in locate("policy").parent.rglob("*") if path.is_file()) / 1e6
    _report("size of all folders, MB", size, "<= 15")
    assert size <= 15
    assert 1e6 <= AutoModelForCausalLM.from_pretrained(locate("policy")).num_parameters() <= 3e6
