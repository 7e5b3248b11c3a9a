"""The texts that scores read. Truth: texts by hand, and a tokenizer that strips leading spaces as Llama-2's does."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import Fuse, Replace, Sequence, Strip
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from mapft.utils.text import encodable, response_texts, text_of


def test_text_of_texts_and_messages():
    assert text_of("Hello?") == "Hello?"
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
    assert text_of(messages) == "Be kind.\nHello?"
    assert text_of([]) == ""


@given(st.text(st.characters(categories=("L", "Cs"))))
def test_only_lone_surrogates_are_replaced(text):
    assert encodable(text) == "".join("?" if "\ud800" <= character <= "\udfff" else character for character in text)
    encodable(text).encode("utf-8")


def test_responses_keep_their_leading_space():
    words = Tokenizer(WordLevel({"▁Why": 0, "▁so": 1, "?": 2, "▁Yes": 3, "</s>": 4, "▁": 5}, "?"))
    words.decoder = Sequence([Replace("▁", " "), Fuse(), Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    assert tokenizer.decode([3, 1]) == "Yes so"
    prompts, responses = [[0, 1, 2], [0], [], [0, 4]], [[3, 1, 4], [2], [3], torch.tensor([3])]
    assert response_texts(tokenizer, prompts, responses) == [" Yes so", "?", "Yes", "Yes"]


def test_only_special_tokens_are_left_out():
    words = Tokenizer(WordLevel({"why": 0, "yes": 1, "<end>": 2, "<think>": 3}, "why"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    assert response_texts(tokenizer, [[0], [2]], [[3, 2, 1, 2], [3, 1]]) == [" <think> yes", "<think> yes"]
