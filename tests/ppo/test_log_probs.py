"""Truth: an unpadded forward pass for every response of the tabular world."""

import pytest
import torch

from mapft.ppo.generation import generate_batch
from tests.ppo import tabular
from tests.ppo.trainers import make_trainer


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_log_probs_match_an_unpadded_forward_pass(tmp_path, architecture):
    """Padding, sorting and splitting the batch change nothing; EOS and sampled pad tokens count."""
    model = tabular.model(architecture=architecture)
    log_p0 = tabular.log_probs(model)
    trainer = make_trainer(tmp_path, [tabular.TableReward(log_p0)], model=model, local_rollout_forward_batch_size=7)
    torch.manual_seed(1)
    batch, texts = generate_batch(trainer, [{"prompt": prompt} for prompt in tabular.PROMPTS * 8])
    logp, features = trainer.log_probs(trainer.model, batch, features=True)
    assert features.shape == (*batch["mask"].shape, model.config.hidden_size)
    torch.testing.assert_close(batch["old_logp"], logp, atol=1e-5, rtol=0)  # recorded, and by a separate pass
    index = {ids: y for y, ids in enumerate(tabular.responses())}
    for row, prompt, ids in zip(logp.sum(1).tolist(), texts["prompts"], texts["completion_ids"], strict=True):
        assert row == pytest.approx(log_p0[tabular.PROMPTS.index(prompt), index[tuple(ids)]], abs=1e-4)
