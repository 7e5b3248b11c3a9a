"""Truth: the enumerated tabular world; models with known faults: BERT sees later tokens, RoBERTa counts positions from
2, and one whose forward fails.
"""

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, RobertaConfig, RobertaForCausalLM

from mapft.utils.consistency import agree, check_log_probs, own_log_probs, padded_log_probs
from mapft.utils.errors import UserError
from mapft.utils.forward import own_head
from tests.ppo import tabular

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SIZES |= {"vocab_size": 50, "initializer_range": 0.3}


def test_log_probs_are_those_of_the_tabular_world():
    model = tabular.model()
    log_p0 = tabular.log_probs(model)
    prompts, responses = tabular.tokenizer()(tabular.PROMPTS)["input_ids"], tabular.responses()
    whole = [y for y, ids in enumerate(responses) if len(ids) == tabular.STEPS]
    for p, y in ((0, whole[5]), (3, whole[70])):
        sequence = [*prompts[p], *responses[y]]
        own_N = own_log_probs(model, [sequence])
        assert own_N[-tabular.STEPS :].sum() == pytest.approx(log_p0[p, y], abs=1e-5)
        assert own_N.shape == (len(sequence) - 1,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_consistent_model_passes_in_its_mode(dtype):
    model = tabular.model().to(dtype).train()
    check_log_probs(model)
    assert model.training


def test_later_tokens_must_not_count():
    with pytest.raises(UserError, match=r"later tokens change .* \(set is_decoder=true in its config.json\), by"):
        check_log_probs(BertLMHeadModel(BertConfig(**SIZES)).eval())
    check_log_probs(BertLMHeadModel(BertConfig(**SIZES, is_decoder=True)).eval())


def test_positions_must_be_counted_from_the_first_token():
    model = RobertaForCausalLM(RobertaConfig(**SIZES, is_decoder=True)).eval()
    with pytest.raises(UserError, match="RobertaForCausalLM is not supported, .* position ids that are counted from"):
        check_log_probs(model)


def test_an_error_of_the_model_is_one_sentence():
    model = tabular.model()
    model.model.layers[1].mlp.up_proj = torch.nn.Linear(3, 4)
    with pytest.raises(UserError, match=r"LlamaForCausalLM .* fails on two short sequences: RuntimeError: mat1 and"):
        check_log_probs(model)


def test_a_scaled_head_and_numbers_that_are_not_finite_disagree():
    model = tabular.model()
    own_N = padded_log_probs(model)
    assert agree(own_N, padded_log_probs(model, own_head), model)
    model.lm_head.weight.data *= 1.1
    assert not agree(own_N, padded_log_probs(model), model)
    assert not agree(own_N, torch.full_like(own_N, torch.nan), model)


def test_rounding_is_larger_in_half_precision():
    single, half = tabular.model(), tabular.model().bfloat16()
    zeros_N = torch.zeros(20)
    assert agree(zeros_N, zeros_N + 1e-4, single)
    assert not agree(zeros_N, zeros_N + 0.1, single)
    assert agree(zeros_N, zeros_N + 0.1, half)
    assert not agree(zeros_N, zeros_N + 0.5, half)
    with torch.autocast("cpu", torch.bfloat16):
        assert agree(zeros_N, zeros_N + 0.1, single)
