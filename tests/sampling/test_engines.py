"""Exact responses from an engine of another distribution. Truth: enumeration of the tabular world."""

import numpy as np
import pytest
from scipy.stats import chisquare

from mapft.config import EngineConfig, SamplingConfig
from mapft.sampling.engines import Proposal, RejectionSampler, check_bound, make_engine, mismatch
from mapft.sampling.engines.exact import normal_overshoot
from mapft.sampling.responses import generate
from mapft.sampling.tokens import TokenizedPrompts
from mapft.utils.errors import UserError
from tests.configs import make_config
from tests.ppo import tabular
from tests.sampling.engines import PROMPT_IDS, ROW, TabularEngine

SMALL, MIDDLE, LARGE = 0.0005, 0.013, 0.128  # KL per response in nats


def sampled(engine: TabularEngine, prompts, seed: int, **settings):
    exact = RejectionSampler(engine, EngineConfig(**settings))
    return exact.sample(engine.policy, prompts, eos_ids=[tabular.EOS], max_new_tokens=tabular.STEPS, seed=seed)


def accepted_distribution(engine: TabularEngine, max_ratio: float) -> np.ndarray:
    """q = min(pi, C mu) / (1 - m)."""
    q_PY = np.minimum(np.exp(engine.log_pi), max_ratio * np.exp(engine.log_mu))
    return q_PY / q_PY.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("kl", "max_ratio"), [(MIDDLE, 1.5), (LARGE, 1.5), (LARGE, 8.0)])
def test_accepted_responses_have_the_distribution_of_the_policy(kl, max_ratio):
    engine, responses = TabularEngine(kl), {ids: y for y, ids in enumerate(tabular.responses())}
    prompts = PROMPT_IDS[:1] * 20_000
    accepted = sampled(engine, prompts, seed=0, max_ratio=max_ratio)
    counts = np.bincount([responses[tuple(each.ids)] for each in accepted], minlength=len(responses))
    q_Y, pi_Y, mu_Y = accepted_distribution(engine, max_ratio)[0], np.exp(engine.log_pi[0]), np.exp(engine.log_mu[0])
    common = q_Y * len(prompts) > 5

    def p_value(law_Y: np.ndarray) -> float:
        expected = np.append(law_Y[common], law_Y[~common].sum())
        return chisquare(np.append(counts[common], counts[~common].sum()), len(prompts) * expected).pvalue

    assert p_value(q_Y) > 1e-3
    assert p_value(mu_Y) < 1e-9  # without the rejection
    if max_ratio == 8.0:
        assert p_value(pi_Y) > 1e-3  # no density ratio is above C


def test_log_ratios_are_those_of_the_accepted_responses():
    engine = TabularEngine(LARGE)
    for row, each in enumerate(sampled(engine, PROMPT_IDS, seed=3)):
        y = tabular.responses().index(tuple(each.ids))
        assert each.kept == engine.log_pi[row, y]
        assert each.log_ratio == pytest.approx(engine.log_pi[row, y] - engine.log_mu[row, y])


def test_samples_of_an_engine_do_not_depend_on_the_micro_batch():
    """And the responses to a prompt differ."""
    prompts, policy = TokenizedPrompts(PROMPT_IDS, tabular.PROMPTS), tabular.model()
    policy.generation_config.eos_token_id = [tabular.EOS]
    tables = [
        generate(
            policy,
            tabular.tokenizer(),
            prompts,
            SamplingConfig(max_new_tokens=tabular.STEPS, micro_batch_size=size, batch_size=32),
            samples_per_prompt=16,
            seed=0,
            engine=RejectionSampler(TabularEngine(MIDDLE), EngineConfig()),
        )
        for size in (1, None)
    ]
    assert tables[0]["response_token_ids"].tolist() == tables[1]["response_token_ids"].tolist()
    distinct = tables[0].groupby("prompt_id")["response_token_ids"].apply(lambda ids: len(set(map(tuple, ids))))
    assert distinct.min() > 4


class Deformed(TabularEngine):
    """Never proposes a response that begins with the token `never`, or returns unfinished ones."""

    never, cut = -1, False

    def propose(self, prompts, seeds, eos_ids, max_new_tokens):
        proposals = super().propose(prompts, seeds, eos_ids, max_new_tokens)
        while again := [n for n, each in enumerate(proposals) if each.ids[0] == self.never]:
            seeds = [seed + 1_000_003 for seed in seeds]
            new = super().propose([prompts[n] for n in again], [seeds[n] for n in again], eos_ids, max_new_tokens)
            for n, proposal in zip(again, new, strict=True):
                proposals[n] = proposal
        if self.never >= 0:  # its probability goes to the others
            first = [sum(np.exp(self.log_mu[ROW[tuple(x)]])[self.starts]) for x in prompts]
            proposals = [
                Proposal(each.ids, each.logp - np.log(1 - p)) for each, p in zip(proposals, first, strict=True)
            ]
        return [Proposal(each.ids[:1], each.logp) for each in proposals] if self.cut else proposals

    @property
    def starts(self) -> np.ndarray:
        return np.array([ids[0] == self.never for ids in tabular.responses()])


def test_an_engine_that_never_proposes_some_responses_is_refused():
    engine = Deformed(SMALL)
    engine.never = 3
    lost = np.exp(engine.log_pi)[:, engine.starts].sum(axis=1).mean()
    assert lost > 0.05
    sampler, complete = (RejectionSampler(each, EngineConfig()) for each in (engine, TabularEngine(SMALL)))
    for seed in range(4):
        for each in (sampler, complete):
            each.sample(engine.policy, PROMPT_IDS * 64, eos_ids=[tabular.EOS], max_new_tokens=3, seed=seed)
    with pytest.raises(UserError, match=r"never proposes responses that are \d+% or more of the policy's"):
        sampler.judge([0.0])
    complete.judge([0.0])


def test_a_response_without_an_end_is_refused():
    engine = Deformed(SMALL)
    engine.cut = True
    with pytest.raises(UserError, match=r"of 1 tokens that ends neither with the first EOS token \(1\) nor after 3"):
        sampled(engine, PROMPT_IDS, seed=0)


def test_an_engine_with_another_model_ends_in_one_sentence():
    engine = TabularEngine(0.0)

    def other(prompts, responses):
        return [-200.0] * len(prompts), responses

    sampler = RejectionSampler(engine, EngineConfig(max_ratio=1.1))
    with pytest.raises(UserError, match=r"No response to 8 of 8 prompts was accepted in 56 rounds"):
        sampler.sample(other, PROMPT_IDS, eos_ids=[tabular.EOS], max_new_tokens=tabular.STEPS, seed=0)


@pytest.mark.parametrize("kl", [SMALL, MIDDLE, LARGE])
def test_the_measures_agree_with_enumeration(kl):
    engine = TabularEngine(kl)
    w_PY, q_PY = np.exp(engine.log_pi - engine.log_mu), accepted_distribution(engine, 1.5)
    measured = mismatch([each.log_ratio for each in sampled(engine, PROMPT_IDS * 1250, seed=1)], 1.5)

    def near(number: float, of_each_PY: np.ndarray) -> bool:
        """Within 4 standard errors of the mean under q."""
        mean = (q_PY * of_each_PY).sum() / len(q_PY)
        variance = (q_PY * of_each_PY**2).sum() / len(q_PY) - mean**2
        return abs(number - mean) <= 4 * (variance / 10_000) ** 0.5

    assert near(measured.kl, np.log(w_PY) + 1 / w_PY - 1)
    assert near(measured.chi2, w_PY + 1 / w_PY - 2)
    odds_of_mean = measured.lost_mass / (1 - measured.lost_mass)
    assert near(odds_of_mean, np.maximum(w_PY / 1.5 - 1, 0))
    assert measured.level_bound**2 >= odds_of_mean
    lost_P = 1 - np.minimum(np.exp(engine.log_pi), 1.5 * np.exp(engine.log_mu)).sum(axis=1)
    odds = (lost_P / (1 - lost_P)).mean()
    assert (q_PY * np.maximum(w_PY / 1.5 - 1, 0)).sum() / len(q_PY) == pytest.approx(odds)
    exact_kl = tabular.kl(engine.log_pi, engine.log_mu)
    assert exact_kl == pytest.approx(kl)
    if kl < LARGE:  # there C is beyond almost all ratios, and q is the policy
        assert measured.kl == pytest.approx(exact_kl, rel=0.1)


@pytest.mark.parametrize("kl", [SMALL, MIDDLE, LARGE])
def test_the_bound_covers_the_error_of_levels(kl):
    """In 95 % or more of 200 evaluations of 128 responses, for the exact levels of the accepted distribution."""
    engine, scores = TabularEngine(kl), tabular.scores()
    pi_PY = np.exp(engine.log_pi)
    mean_V = np.einsum("py,pyv->v", pi_PY, scores) / len(pi_PY)
    sd_V = np.sqrt(np.einsum("py,pyv->v", pi_PY, (scores - mean_V) ** 2) / len(pi_PY))
    for max_ratio in (1.1, 1.5):
        q_PY = accepted_distribution(engine, max_ratio)
        error = np.abs(np.einsum("py,pyv->v", q_PY - pi_PY, scores) / len(pi_PY) / sd_V).max()
        bounds = []
        for seed in range(200):
            responses = sampled(engine, PROMPT_IDS * 16, seed, max_ratio=max_ratio)
            bounds.append(mismatch([each.log_ratio for each in responses], max_ratio).level_bound)
        covered = error <= np.array(bounds) + 1e-12  # rounding
        assert np.mean(covered) >= 0.95
        lost_P = 1 - np.minimum(pi_PY, max_ratio * np.exp(engine.log_mu)).sum(axis=1)
        assert np.median(bounds) <= 3 * (lost_P / (1 - lost_P)).mean() ** 0.5 + 0.02  # and is not far above its truth
    if kl == LARGE:
        assert error > 0.001  # there is something to cover


def test_a_bound_that_is_too_large_stops_with_the_ratio_that_is_enough():
    engine = TabularEngine(LARGE)
    log_ratios = [each.log_ratio for each in sampled(engine, PROMPT_IDS * 64, seed=0)]
    with pytest.raises(
        UserError, match=r"off by 0\.\d+ sd, above engine.max_level_bound=0.05; set engine.max_ratio="
    ) as error:
        check_bound(log_ratios, EngineConfig())
    check_bound(log_ratios[:200], EngineConfig())  # too few to judge
    enough = EngineConfig(max_ratio=float(str(error.value).split("engine.max_ratio=")[1].split(" (")[0]))
    check_bound([each.log_ratio for each in sampled(engine, PROMPT_IDS * 64, 0, max_ratio=enough.max_ratio)], enough)
    with pytest.raises(UserError, match=r"run the servers in the precision of the policy, and check that"):
        check_bound(20 * np.array(log_ratios), EngineConfig())


def test_the_settings_of_engines():
    assert make_engine(make_config()) is None
    for urls in ([], ["localhost:8000"], ["http://host:port"], ["http://host:8000/v1"]):
        with pytest.raises(UserError, match=r"engine.urls=.* is invalid; it must be one address or more, http://host"):
            EngineConfig(name="vllm", urls=urls)
    EngineConfig(name="vllm", urls=["http://localhost:8000", "https://a.example/", "http://[::1]:80"])
    with pytest.raises(UserError, match=r"engine.name=sglang is unknown; use transformers or vllm"):
        make_engine(make_config(engine=EngineConfig(name="sglang", urls=["http://a"])))
    with pytest.raises(UserError, match=r"needs sampling.temperature=1"):
        make_engine(make_config(engine=EngineConfig(name="vllm", urls=["http://a"]), sampling=SamplingConfig(top_k=5)))


def test_the_overshoot_of_a_normal_distribution_is_its_integral():
    for sd, max_ratio in ((0.2, 1.5), (0.5, 1.5), (0.5, 4.0)):
        log_w = np.linspace(sd**2 / 2 - 12 * sd, sd**2 / 2 + 12 * sd, 200_001)
        density = np.exp(-((log_w - sd**2 / 2) ** 2) / (2 * sd**2)) / (sd * (2 * np.pi) ** 0.5)
        integral = np.trapezoid(np.maximum(np.exp(log_w) / max_ratio - 1, 0) * density, log_w)
        assert normal_overshoot(sd, max_ratio) == pytest.approx(integral, rel=1e-5, abs=1e-12)
    assert normal_overshoot(0.0, 1.5) == 0
