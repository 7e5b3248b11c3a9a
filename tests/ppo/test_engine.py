"""PPO on responses that an engine of another distribution proposes. Truth: exact enumeration of the tabular world."""

import pytest
import torch

from mapft.config import EngineConfig
from mapft.ppo.estimation import k1
from mapft.sampling.engines import RejectionSampler
from mapft.sampling.engines.exact import Accepted
from mapft.utils.errors import UserError
from tests.ppo import tabular
from tests.ppo.trainers import make_trainer, move_policy, table_reward
from tests.sampling.engines import TabularEngine

LARGE = 0.128  # KL(pi||mu) per response in nats


def exact(engine, **settings) -> RejectionSampler:
    return RejectionSampler(engine, EngineConfig(**{"max_ratio": 8.0} | settings))


def test_a_rollout_has_the_policys_responses_and_log_probabilities(tmp_path):
    trainer = make_trainer(tmp_path, [table_reward()], engine=exact(TabularEngine(LARGE)))
    move_policy(trainer, 0.1)
    log_pi = tabular.log_probs(trainer.model.eval())
    trainer.model.train()
    torch.manual_seed(0)
    rows = [dict(trainer.train_dataset[k % len(tabular.PROMPTS)]) for k in range(256)]
    batch = trainer.rollout(rows)
    numbers = {ids: y for y, ids in enumerate(tabular.responses())}
    for k, (ids, mask, logp) in enumerate(zip(batch["completion_ids"], batch["mask"], batch["old_logp"], strict=True)):
        y = numbers[tuple(ids[mask.bool()].tolist())]
        assert logp.sum().item() == pytest.approx(log_pi[k % len(tabular.PROMPTS), y], abs=1e-4)
    assert trainer.metrics["engine/kl"][-1] == pytest.approx(LARGE, rel=0.5)  # 256 responses
    assert trainer.metrics["engine/level_bound"][-1] < 0.05
    assert 0.5 < trainer.metrics["engine/ess"][-1] < 1


def test_an_engine_that_ignores_the_adapter_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"With the adapter of large random weights, .* differ by .* nats per token"):
        make_trainer(tmp_path, [table_reward()], engine=exact(TabularEngine(0.0, ignores_adapter=True)))


def test_an_engine_with_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"With the adapter before training, .* check that the servers of engine.urls"):
        make_trainer(tmp_path, [table_reward()], model=tabular.model(seed=7), engine=exact(TabularEngine(0.0)))


def test_a_policy_without_an_adapter_is_refused(tmp_path):
    tabular.model().save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    with pytest.raises(UserError, match=r"needs an adapter, which the servers load"):
        make_trainer(tmp_path, [table_reward()], base, peft_config=None, engine=exact(TabularEngine(0.0)))


class Trusted(RejectionSampler):
    """Accepts every proposal."""

    def sample(self, policy, prompts, *, eos_ids, max_new_tokens, seed):
        proposals = self.engine.propose(prompts, range(seed, seed + len(prompts)), eos_ids, max_new_tokens)
        logp, kept = policy(prompts, [proposal.ids for proposal in proposals])
        self.newest = [own - proposal.logp for own, proposal in zip(logp, proposals, strict=True)]
        return [Accepted(*row) for row in zip([p.ids for p in proposals], self.newest, kept, strict=True)]


@pytest.mark.slow
def test_training_ends_at_p_lam_for_an_engine_of_another_distribution(tmp_path, world, monkeypatch):
    """At .128 nats per response; with the engine's log-probabilities in the KL, it ends about as far from p_lam."""
    log_p_lam = world[2]
    trainer = make_trainer(tmp_path, [table_reward()], engine=exact(TabularEngine(LARGE)), total_episodes=10_240)
    trainer.train()
    assert tabular.kl(tabular.log_probs(trainer.model.eval()), log_p_lam) < 0.06

    engine = Trusted(TabularEngine(LARGE), EngineConfig(max_level_bound=10.0))
    wrong = make_trainer(tmp_path, [table_reward()], engine=engine, total_episodes=10_240)

    def kl_of_the_engine(logp_BT, ref_logp_BT, mask_BT):
        kl_BT = k1(logp_BT, ref_logp_BT, mask_BT)
        kl_BT[torch.arange(len(kl_BT)), mask_BT.sum(dim=1) - 1] -= torch.tensor(engine.newest)
        return kl_BT

    monkeypatch.setattr("mapft.ppo.rollout.k1", kl_of_the_engine)
    wrong.train()
    assert tabular.kl(tabular.log_probs(wrong.model.eval()), log_p_lam) > 0.1
