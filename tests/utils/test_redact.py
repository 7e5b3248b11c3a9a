"""Secrets in settings, command lines and URLs. Truth: the secret does not occur in the result; texts by hand."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mapft.utils.redact import redact, redact_command, redact_urls
from tests.strategies import ANYTHING, EXAMPLES, TEXT

PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=8)


@EXAMPLES
@given(st.dictionaries(TEXT, ANYTHING, max_size=3), PRINTABLE)
def test_no_secret_remains(other_settings, secret):
    settings = {**other_settings, "api_key": secret, "deep": [{"hf_token": secret, "credentials": {"mine": secret}}]}
    assume(secret not in json.dumps(other_settings, ensure_ascii=False))
    assume(secret.strip() not in "api_key hf_token credentials")
    assert json.dumps(secret)[1:-1] not in json.dumps(redact(settings), ensure_ascii=False)
    quoted = secret.replace("\\", "\\\\").replace("'", "\\'")
    word = f"+rewards.a={{path: x, api_key: '{quoted}', max_tokens: 7}}"
    assert redact_command(word) == "+rewards.a={path: x, api_key: ***, max_tokens: 7}"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("wandb_api_key=hunter2", "wandb_api_key=***"),
        ("+rewards.a={token: hun,ter2}", "+rewards.a={token: ***}"),
        ("+rewards.a={api_key: hun ter2, path: x}", "+rewards.a={api_key: ***, path: x}"),
        ('+rewards.a={"api_key": "hun\\"ter2"}', '+rewards.a={"api_key": ***}'),
        ("+rewards.a={api_key: hunter2", "+rewards.a={api_key: ***"),
        ("+r.a.url=http://me:p@ss@host/score", "+r.a.url=http://me:***@host/score"),
        ("+r.a.url=http://host/score?api_token=hunter2&x=1", "+r.a.url=http://host/score?api_token=***"),
        ("sampling.max_new_tokens=50", "sampling.max_new_tokens=50"),
    ],
)
def test_words_of_a_command_line(word, expected):
    assert redact_command(word) == expected


def test_urls_in_a_sentence():
    sentence = "No reply from https://hf_abc@hub/x, nor from http://me:pw@host:9/score?key=abc, after 3 s."
    assert (
        redact_urls(sentence)
        == "No reply from https://***@hub/x, nor from http://me:***@host:9/score?key=*** after 3 s."
    )


def test_settings_without_secrets_are_unchanged():
    settings = {"path": "x", "max_tokens": 7, "api_key": None, "password": "", "orders": [2, 3], "secrets": "s"}
    assert redact(settings) == settings | {"secrets": "***"}
