"""Loading a policy and a tokenizer. Truth: the tabular world; folders in which a part is missing."""

import numpy as np
import pytest
import torch

from mapft.config import ModelConfig
from mapft.sampling.models import load_policy
from mapft.utils.errors import UserError
from tests.ppo import tabular


def test_pickled_weights_are_rejected_unless_allowed(tmp_path):
    model = tabular.model()
    model.config.save_pretrained(tmp_path)
    tabular.tokenizer().save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_policy(ModelConfig(path=str(tmp_path)))
    policy, _ = load_policy(ModelConfig(path=str(tmp_path), allow_pickle=True))
    np.testing.assert_allclose(tabular.log_probs(policy), tabular.log_probs(model), atol=1e-6)


def test_a_missing_folder_is_one_sentence():
    with pytest.raises(UserError, match="model.path=/no/such/model does not exist"):
        load_policy(ModelConfig(path="/no/such/model"))


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded as a causal language model"):
        load_policy(ModelConfig(path=str(tmp_path)))
