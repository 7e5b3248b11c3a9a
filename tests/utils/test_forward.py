"""Truth: log_softmax of the whole logits, read at the states before the response tokens."""

import pytest
import torch
from peft import get_peft_model

from mapft.utils.forward import all_fp32, causal_model, has_adapter_layers, own_head, response_log_probs
from tests.ppo import tabular
from tests.ppo.trainers import lora


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_own_head_reads_the_states_before_the_response_tokens(temperature):
    """Two rows of 5 columns, with labels at 3 of their states."""
    model = get_peft_model(tabular.model(), lora())
    input_ids = torch.tensor([[7, 2, 3, 4, 5], [7, 3, 2, 6, 1]])
    states, labels = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 1, 0]]).bool(), torch.tensor([3, 5, 1])
    with torch.no_grad():
        expected = (model(input_ids=input_ids).logits[states] / temperature).log_softmax(-1)
        hidden = causal_model(model).base_model(input_ids=input_ids).last_hidden_state[states]
    inputs = {"input_ids": input_ids}
    logp, entropy, features = own_head(model, causal_model(model), inputs, labels, states, temperature=temperature)
    torch.testing.assert_close(logp, expected[range(3), labels], atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, -(expected.exp() * expected).sum(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(features, hidden, atol=1e-5, rtol=0)
    assert not entropy.requires_grad
    assert not features.requires_grad
    logp.sum().backward()
    assert any(w.grad is not None and w.grad.abs().max() > 0 for w in model.parameters())
    assert model(input_ids=input_ids).logits.shape == (2, 5, len(tabular.WORDS))  # the hook is gone


def test_padding_on_either_side_changes_nothing():
    model = tabular.model(architecture="gpt2")
    rows = [([7], [2, 1]), ([7, 3, 4], [5])]
    batch = {
        "prompt_ids": torch.tensor([[0, 0, 7], [7, 3, 4]]),
        "prompt_mask": torch.tensor([[0, 0, 1], [1, 1, 1]]),
        "completion_ids": torch.tensor([[2, 1], [5, 0]]),
        "mask": torch.tensor([[1, 1], [1, 0]]),
    }
    logp, _, _ = response_log_probs(model, batch, own_head)
    for row, (prompt, response) in zip(logp, rows, strict=True):
        log_p = model(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        own = [log_p[len(prompt) - 1 + t, token].item() for t, token in enumerate(response)]
        assert row[: len(own)].tolist() == pytest.approx(own, abs=1e-5)
        assert not row[len(own) :].any()


def test_a_model_is_known_by_its_weights_and_layers():
    base = tabular.model()
    assert all_fp32(base)
    assert not has_adapter_layers(base)
    tuned = get_peft_model(base, lora())
    assert causal_model(tuned) is base
    assert has_adapter_layers(base)
    base.lm_head.to(torch.bfloat16)
    assert not all_fp32(tuned)
