"""The tokenizer: lossless, without tokens of its own, and prompt + reply is tokenised as their concatenation."""

from random import Random

import pytest
from transformers import PreTrainedTokenizerFast

from mapft.playground.grammar import load_grammar


@pytest.mark.parametrize("text", ["User: How do I?\nAssistant:", " naïve café – ½ 😀\t\n", "  two  spaces  ", ""])
def test_any_text_survives_a_round_trip(tiny_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tiny_tokenizer.decode(tiny_tokenizer(text)["input_ids"]) == text


def test_special_tokens_are_distinct_and_never_added(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    special = {tiny_tokenizer.pad_token_id, tiny_tokenizer.bos_token_id, tiny_tokenizer.eos_token_id}
    assert len(special) == 3
    with_special, without = (tiny_tokenizer("User: hi", add_special_tokens=add)["input_ids"] for add in (True, False))
    assert with_special == without
    assert not special & set(without)


def test_prompt_and_reply_tokenise_separately_as_together(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    grammar, rng = load_grammar(), Random(3)
    for prompt in rng.choices(grammar.prompts, k=300):
        reply = grammar.sample(prompt.task, rng).text
        apart = tiny_tokenizer(prompt.text)["input_ids"] + tiny_tokenizer(reply)["input_ids"]
        assert tiny_tokenizer(prompt.text + reply)["input_ids"] == apart
