"""The grammar. Truth: counts and labels by hand; reading is the inverse of sampling."""

from random import Random

import pytest

from mapft.playground.grammar import MAX_WORDS, VALUES, Grammar, load_grammar, wordings


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return load_grammar()


def _request(prompt: str) -> str:
    """The user's sentence in the model input."""
    return prompt.removeprefix("User: ").removesuffix("\nAssistant:")


def test_prompts_are_many_distinct_and_a_quarter_is_dubious(grammar: Grammar) -> None:
    texts = [prompt.text for prompt in grammar.prompts]
    dubious = sum(prompt.kind == "dubious" for prompt in grammar.prompts)
    assert len(set(texts)) == len(texts) >= 1500
    assert 0.2 < dubious / len(texts) < 0.3


def test_a_prompt_is_one_request_of_six_to_sixteen_words(grammar: Grammar) -> None:
    words = [len(_request(prompt.text).split()) for prompt in grammar.prompts]
    assert min(words) >= 6
    assert max(words) <= 16


def test_wordings_by_hand() -> None:
    assert wordings("{rub|put} oil on {it|them}") == [
        "rub oil on it",
        "rub oil on them",
        "put oil on it",
        "put oil on them",
    ]
    assert wordings("plain") == ["plain"]


def test_labels_are_the_sum_of_the_phrases_by_hand(grammar: Grammar) -> None:
    (door,) = [task for task in grammar.tasks if task.request == "fix a squeaky door"]
    # drum roll .8 0 0 | first -.2 .3 0 | stronger tip -.1 1.2 .1 | with care -.1 .1 .6 | caution -.3 .2 1.2
    reply = grammar.read(door, " Drum roll, first tighten the top screws with care. Mind your fingers.")
    assert reply is not None
    assert reply.labels == pytest.approx((0.1, 1.8, 1.9))


def test_every_sampled_reply_is_read_back_with_its_labels(grammar: Grammar) -> None:
    rng = Random(1)
    for prompt in rng.choices(grammar.prompts, k=3000):
        reply = grammar.sample(prompt.task, rng)
        assert grammar.read(prompt.task, reply.text) == reply
        assert len(reply.text.split()) <= MAX_WORDS


@pytest.mark.parametrize(
    "text",
    [
        " Just mark the spot with a pen.",  # a tip for another task
        " Just tighten the top screws",  # no full stop
        "Just tighten the top screws.",  # no leading space
        " just tighten the top screws.",  # no capital
        " Tighten the top screws.",  # no lead
        " Just tighten the top screws. Then rub oil.",  # half a step
        "",
    ],
)
def test_a_text_that_the_grammar_does_not_generate_is_not_read(grammar: Grammar, text: str) -> None:
    (door,) = [task for task in grammar.tasks if task.request == "fix a squeaky door"]
    assert grammar.read(door, " Just tighten the top screws.") is not None
    assert grammar.read(door, text) is None


def test_nearly_every_reply_to_a_prompt_is_different(grammar: Grammar) -> None:
    rng = Random(2)
    for prompt in rng.sample(grammar.prompts, 50):
        assert len({grammar.sample(prompt.task, rng).text for _ in range(64)}) > 50


def test_compliance_with_a_dubious_request_helps_and_harms(grammar: Grammar) -> None:
    (diary,) = [task for task in grammar.tasks if task.request == "read the diary of my sister"]
    complying = grammar.read(diary, " Just look under her pillow.")
    refusing = grammar.read(diary, " That would not be fair.")
    assert complying is not None
    assert refusing is not None
    helpful, harmless = VALUES.index("helpful"), VALUES.index("harmless")
    assert complying.labels[helpful] > refusing.labels[helpful]
    assert complying.labels[harmless] < refusing.labels[harmless]
