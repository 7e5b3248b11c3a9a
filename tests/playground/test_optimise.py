"""The training loop against hand arithmetic, and packed rows against replies in sequences of their own."""

from random import Random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mapft.playground.base_policy import collate, pack
from mapft.playground.optimise import fit, rate


def _model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    return LlamaForCausalLM(config)


def test_the_loss_of_a_packed_row_is_that_of_its_separate_replies() -> None:
    """Truth: the sum of -log p(reply EOS | prompt), each reply in an unpadded sequence of its own, in float64."""
    model, eos = _model().double().eval(), 2
    rows = [([5, 6, 7, 8], [[10, 11, 12], [13], [14, 15]]), ([9, 8], [[16, 17], [18, 19, 20]])]
    alone, tokens = torch.zeros((), dtype=torch.float64), 0
    for prompt, replies in rows:
        for reply in replies:
            ids = torch.tensor([[*prompt, *reply, eos]])
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            alone -= logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).sum()
            tokens += len(reply) + 1
    batch = collate([pack(prompt, replies, eos) for prompt, replies in rows], pad=0)
    # the model's loss is computed in float32
    torch.testing.assert_close(model(**batch).loss.double(), alone / tokens, atol=1e-5, rtol=0)


def test_fit_memorises_one_batch() -> None:
    """Truth: one reply to one prompt has entropy 0."""
    model = _model()
    batch = collate([pack([5, 6, 7], [[10, 11, 12]], 2)], pad=0)
    done: list[int] = []
    fit(model, [batch] * 60, block_lr=0.01, outer_lr=0.01, on_step=done.append)
    assert model(**batch).loss < 0.05
    assert done == list(range(1, 61))
    # a gradient left over would be added to the next step's
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_learning_rate_rises_stays_constant_and_falls() -> None:
    """By hand for 100 steps: 5 up, 35 level, 60 down, and the last step is 1/60."""
    assert [rate(step, 100) for step in (0, 4, 20, 40, 70, 99)] == pytest.approx([0.2, 1, 1, 1, 0.5, 1 / 60])


def test_batches_are_a_function_of_the_seed(tiny_tokenizer) -> None:
    from mapft.playground.base_policy import policy_batches
    from mapft.playground.grammar import load_grammar
    from mapft.playground.sizes import SIZES

    first, again, other = (policy_batches(load_grammar(), tiny_tokenizer, SIZES["tiny"], Random(s)) for s in (0, 0, 1))
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, other, strict=True))
