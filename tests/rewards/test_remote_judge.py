"""A judge on another machine. Truth: the same model here; closed forms; the requests that a real server receives."""

import math
import threading

import numpy as np
import pytest

from mapft.cli import main
from mapft.rewards import parse, score_identity, usage
from mapft.rewards.remote_judge import TOKEN_VARIABLE, log_odds_of_number, log_odds_of_words
from mapft.utils import http_client
from mapft.utils.errors import UserError
from tests import worlds

PROMPTS = ["why is the garden so quiet", "why", "", "so"]
RESPONSES = ["so", "the garden is kind", "Yes", "quiet quiet quiet"]
QUESTION = "is {answer} kind"
ANSWERS = {"answer": ["the garden", "so", None, 3]}


@pytest.fixture
def server(models, chat):
    return chat(models["words"])


def scorer(server, **settings):
    defaults = {"kind": "remote_judge", "url": server.url, "model": "words", "question": "so", "retries": 0}
    return parse({"v": defaults | settings})["v"].load("v")


def choice(**answer):
    """An edit of the server's replies."""
    return lambda reply: reply | {"choices": [reply["choices"][0] | answer]}


@pytest.mark.parametrize("answer", ["log_probabilities", "number"])
def test_scores_are_those_of_the_same_model_here(models, server, answer):
    template = "{prompt} {response} {question}"  # without the instruction, which the answers differ in
    settings = {"question": QUESTION, "template": template, "clip": 100.0, "sign": -1.0}
    here = parse({"v": settings | {"kind": "judge", "path": models["words"]}})["v"].load("v")
    expected = here.score(PROMPTS, RESPONSES, ANSWERS)
    assert np.ptp(expected) > 1
    there = scorer(server, answer=answer, **settings).score(PROMPTS, RESPONSES, ANSWERS)
    np.testing.assert_allclose(there, expected, atol=1e-4)


def test_the_request_is_that_of_openai(server, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    more = {"max_completion_tokens": 1, "max_tokens": None, "chat_template_kwargs": {"enable_thinking": False}}
    scorer(server, request=more).score(["why"], ["so"])
    scorer(server, answer="number").score(["why"], ["so"])
    text = "Prompt:\nwhy\n\nResponse:\nso\n\nQuestion: so\n"
    first, second = server.requests
    assert first == (
        "Bearer secret",
        {
            "model": "words",
            "messages": [{"role": "user", "content": text + "Answer with Yes or No.\nAnswer:"}],
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 20,
            "max_completion_tokens": 1,
            "chat_template_kwargs": {"enable_thinking": False},
        },
    )
    ask = 'Reply with JSON: {"probability": the probability, from 0 to 1, that the answer is Yes}'
    assert second[1]["messages"] == [{"role": "user", "content": text + ask}]
    assert second[1]["response_format"]["json_schema"]["schema"]["required"] == ["probability"]
    assert "logprobs" not in second[1]


def test_tokens_that_are_the_word_are_added_and_an_absent_word_has_the_least_probability():
    likely = [("Yes", math.log(0.3)), (" No", math.log(0.25)), (" Yes", math.log(0.2)), ("Yesterday", math.log(0.1))]
    assert log_odds_of_words(likely, "Yes", "No") == pytest.approx(math.log(0.5 / 0.25))
    assert log_odds_of_words(likely[::2] + likely[3:], "Yes", "No") == pytest.approx(math.log(0.5 / 0.1))
    assert log_odds_of_words(likely[1:2] + likely[3:], "Yes", "No") == pytest.approx(math.log(0.1 / 0.25))
    assert log_odds_of_words(likely[3:], "Yes", "No") is None
    assert log_odds_of_words([], "Yes", "No") is None


@pytest.mark.parametrize(
    ("content", "log_odds"),
    [
        ('{"probability": 0.75}', math.log(3)),
        ('{"probability": 1}', math.inf),
        ('{"probability": 0}', -math.inf),
        ('{"probability": 85}', None),
        ('{"probability": NaN}', None),
        ('{"probability": true}', None),
        ('{"probability": "0.5"}', None),
        ("[0.5]", None),
        ("Yes", None),
        ("", None),
    ],
)
def test_the_number_is_a_probability(content, log_odds):
    assert log_odds_of_number(content) == (log_odds if log_odds is None else pytest.approx(log_odds))


def test_log_odds_are_clipped(server):
    server.edit = choice(message={"content": '{"probability": 0}'})
    judge = scorer(server, answer="number", clip=4.0, sign=0.5)
    assert judge.settings.bounds == (-2, 2)
    assert judge.score(["why"], ["so"]).tolist() == [-2]


@pytest.mark.parametrize(
    ("settings", "answer", "message"),
    [
        (
            {},
            {"logprobs": {"content": [{"top_logprobs": [{"token": "Maybe", "logprob": -0.1}]}]}},
            "words answers 'Maybe' to a question that needs Yes or No; change the question, or set rewards.v.unansw",
        ),
        ({}, {"logprobs": {"content": []}}, "words answers '' to"),
        (
            {"answer": "number"},
            {"message": {"content": "Sorry."}},
            "'Sorry.' to a question that needs {\"probability\": a",
        ),
        ({"answer": "number"}, {"message": {"content": None, "refusal": "No."}}, "words answers '' to"),
    ],
)
def test_a_response_without_an_answer_needs_a_score(server, settings, answer, message):
    server.edit = choice(**answer)
    with pytest.raises(UserError) as caught:
        scorer(server, **settings).score(["why"], ["so"])
    assert message in str(caught.value)
    assert scorer(server, **settings, unanswered=-1.5).score(["why"], ["so"]).tolist() == [-1.5]


@pytest.mark.parametrize("logprobs", [{}, {"logprobs": None}])
def test_a_server_without_log_probabilities_names_the_alternative(server, logprobs):
    server.edit = lambda reply: {"choices": [{"message": reply["choices"][0]["message"]} | logprobs]}
    with pytest.raises(UserError, match="/chat/completions returns no log-probabilities; set rewards.v.answer=number"):
        scorer(server, unanswered=0.0).score(["why"], ["so"])


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "null",
        "Yes",
        '{"choices": []}',
        '{"choices": [{}]}',
        '{"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "Yes", "logprob": null}]}]}}]}',
        '{"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": 1, "logprob": -1}]}]}}]}',
        '{"choices": [{"logprobs": {"content": {}}}]}',
        "[" * 5000,
    ],
)
def test_an_invalid_reply_is_rejected(server, text):
    server.replies = [(200, text)]
    with pytest.raises(
        UserError, match=r"must reply with a choice in the format of OpenAI's chat|no log-probabilities"
    ):
        scorer(server).score(["why"], ["so"])


def test_temporary_errors_are_retried_and_others_are_one_sentence(server, monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.01)
    expected = scorer(server).score(["why"], ["so"])
    server.replies = [(429, "busy"), (503, "")]
    assert scorer(server, retries=2).score(["why"], ["so"]) == expected
    server.replies = [(401, '{"error": {"message": "No such key.", "type": "invalid"}}')]
    with pytest.raises(UserError, match=rf"\(status 401: No such key.\); set {TOKEN_VARIABLE} to the server's token"):
        scorer(server, retries=2).score(["why"], ["so"])
    with pytest.raises(UserError, match=r"There is no /v2/chat/completions.\); correct the address"):
        scorer(server, url=server.url.replace("v1", "v2/")).score(["why"], ["so"])


def test_requests_are_sent_at_the_same_time_and_in_their_order(server):
    """Each of 8 requests waits until 4 have arrived."""
    responses = ["so", "why", "the", "kind", "quiet", "is", "garden", "Yes"]
    expected = scorer(server, concurrency=1).score(["why"] * 8, responses)
    server.barrier = threading.Barrier(4)
    assert scorer(server, concurrency=4).score(["why"] * 8, responses).tolist() == expected.tolist()
    assert len(set(expected)) == 8


def test_an_error_ends_the_requests(server):
    server.replies = [(400, "no")]
    with pytest.raises(UserError, match="status 400"):
        scorer(server, concurrency=1).score(["why"] * 50, [f"so {'why ' * n}" for n in range(50)])
    assert len(server.requests) < 50


def test_the_same_text_is_asked_once(server):
    scores = scorer(server).score(["why", "so", "why"], ["so"] * 3)
    assert len(server.requests) == 2
    assert scores[0] == scores[2] != scores[1]


def test_requests_tokens_and_cost_are_counted(server):
    usage.take_sentences()
    scorer(server, prompt_price=2e6, reply_price=10.0).score(["why", "so"], ["so", "so"])
    tokens = sum(
        len(server.tokenizer(request["messages"][0]["content"])["input_ids"]) + 1 for _, request in server.requests
    )
    cost = 2 * tokens + 2 * 10 / 1e6
    assert usage.take_sentences() == [
        f"rewards.v: 2 requests with {tokens} tokens, and 2 tokens in the replies, cost {cost:.4g}."
    ]
    assert usage.take_sentences() == []
    scorer(server).score(["why"], ["so"])
    [sentence] = usage.take_sentences()
    assert sentence.endswith(", and 1 tokens in the replies.")
    server.edit = lambda reply: {"choices": reply["choices"]}
    scorer(server).score(["why"], ["so"])
    assert usage.take_sentences() == ["rewards.v: 1 requests with 0 tokens, and 0 tokens in the replies."]


def test_settings_that_change_no_score_are_not_part_of_its_identity():
    settings = {"kind": "remote_judge", "url": "http://x/v1", "model": "m", "question": "So?", "concurrency": 2}
    score = parse({"v": settings | {"prompt_price": 1.0, "retries": 1, "answer": "number"}})["v"]
    assert score_identity(score) == {k: settings[k] for k in ("kind", "url", "model", "question")} | {
        "answer": "number"
    }


def test_a_command_prints_the_usage_and_asks_nothing_twice(server, tmp_path, capfd):
    """The second run changes the palette only, so its scores are in the cache."""
    paths = worlds.build(tmp_path)
    judge = f"+rewards.kind={{kind: remote_judge, url: '{server.url}', model: words, question: 'is it kind'}}"
    arguments = worlds.own(paths, tmp_path / "runs", judge, "+palette.sd.kind=0.1", "sampling.max_new_tokens=4")
    assert main(["score", *arguments]) == 0
    count = len(server.requests)
    assert 0 < count <= 18 * 8  # 18 training prompts with 8 samples each, and no text twice within 64 rows
    assert f"rewards.kind: {count:,} requests with " in capfd.readouterr().out.replace("\n", " ")
    assert main(["score", *arguments, "palette.sd.kind=0.2"]) == 0
    assert len(server.requests) == count
    assert "requests with" not in capfd.readouterr().out
