"""A small tokenizer, trained in memory."""

from random import Random

import pytest
from transformers import PreTrainedTokenizerFast

from mapft.playground.grammar import load_grammar
from mapft.playground.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    grammar, rng = load_grammar(), Random(0)
    texts = [prompt.text + grammar.sample(prompt.task, rng).text for prompt in rng.choices(grammar.prompts, k=500)]
    return train_tokenizer(texts, vocab_size=500)
