"""Decoding. Truth: enumeration of the tabular world; the exact distribution of the responses, as an integral."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.integrate import quad
from scipy.special import xlogy

from mapft.config import Choose, ModelConfig, SamplingConfig
from mapft.rewards import parse
from mapft.sampling.decoding import AlignedSampler, candidates_warning, ess_and_kl
from mapft.sampling.models import load_adapter, load_policy
from mapft.utils.errors import UserError
from tests.ppo import tabular

LAM = {"sweet": 0.9, "short": 1.1}
PREFERENCE = np.random.default_rng(5).normal(size=(tabular.STEPS, len(tabular.WORDS)))


def sweet(prompts, completions):
    """The preference for each word at its position, summed."""
    words = [text.split() for text in completions]
    return [sum(PREFERENCE[t, tabular.WORDS.index(word)] for t, word in enumerate(text)) / 1.5 for text in words]


def short(prompts, completions):
    """1 for the empty response, 0 for the longest."""
    return [1 - len(text.split()) / tabular.STEPS for text in completions]


def right(prompts, completions, answer):
    """Minus infinity, but for rounding, unless the response begins with the answer of its row."""
    return [0.0 if text.split()[:1] == [word] else -60.0 for text, word in zip(completions, answer, strict=True)]


SCORES = parse(
    {
        "sweet": {"kind": "function", "target": f"{__name__}:sweet", "high": 4.0},
        "short": {"kind": "function", "target": f"{__name__}:short", "low": 0.0, "high": 1.0},
    }
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Policy, tokenizer, the responses as texts, log p0 of each text per prompt (P, Y), and lam.r of each text (Y,)."""
    folder = tmp_path_factory.mktemp("tabular")
    tabular.model().save_pretrained(folder)
    tabular.tokenizer().save_pretrained(folder)
    policy, tokenizer = load_policy(ModelConfig(path=str(folder)))
    texts, place = np.unique(tokenizer.batch_decode(tabular.responses(), skip_special_tokens=True), return_inverse=True)
    p0_PY = np.zeros((len(tabular.PROMPTS), len(texts)))
    np.add.at(p0_PY.T, place, np.exp(tabular.log_probs(policy)).T)
    tilt_Y = LAM["sweet"] * np.array(sweet(None, texts)) + LAM["short"] * np.array(short(None, texts))
    return policy, tokenizer, texts.tolist(), p0_PY, tilt_Y


def sampler(world, batch_size=4096, **lam) -> AlignedSampler:
    policy, tokenizer, *_ = world
    return AlignedSampler(
        policy, tokenizer, SCORES, LAM | lam, SamplingConfig(max_new_tokens=tabular.STEPS, batch_size=batch_size)
    )


def exact_distribution(p0_Y, tilt_Y, n):
    """q_n(y) = n p0(y) w(y) E 1 / (w(y) + S), S the sum of n-1 other weights; as 1/a = int_0^inf exp(-t a) dt,

    q_n(y) = n p0(y) w(y) int_0^inf exp(-t w(y)) phi(t)^(n-1) dt,   phi(t) = E_{p0} exp(-t w).
    """
    weight_Y = np.exp(tilt_Y - tilt_Y.max())
    phi = lambda t: p0_Y @ np.exp(-t * weight_Y)  # noqa: E731
    inner = lambda w: quad(lambda t: np.exp(-t * w) * phi(t) ** (n - 1), 0, np.inf, epsabs=1e-9, limit=500)[0]  # noqa: E731
    unique, where = np.unique(weight_Y, return_inverse=True)
    return n * p0_Y * weight_Y * np.array([inner(w) for w in unique])[where]


def p_lam(p0_Y, tilt_Y):
    weight_Y = p0_Y * np.exp(tilt_Y)
    return weight_Y / weight_Y.sum()


def kl(p_Y, q_Y):
    return float((xlogy(p_Y, p_Y) - xlogy(p_Y, q_Y)).sum())


def frequencies(world, table, prompt):
    texts = world[2]
    responses = table["response"][table["prompt_id"] == prompt]
    return np.bincount([texts.index(text.strip()) for text in responses], minlength=len(texts)) / len(responses)


def test_the_exact_distribution_of_small_cases(world):
    """n = 1 is p0; n = 2 with two responses by hand: w/(w+v) when they differ."""
    p0_Y, tilt_Y = world[3][0], world[4]
    np.testing.assert_allclose(exact_distribution(p0_Y, tilt_Y, 1), p0_Y, atol=1e-8)
    hand = np.array([0.3**2 + 2 * 0.3 * 0.7 * 0.8, 0.7**2 + 2 * 0.3 * 0.7 * 0.2])
    np.testing.assert_allclose(exact_distribution(np.array([0.3, 0.7]), np.log([4.0, 1.0]), 2), hand, atol=1e-9)


@pytest.mark.parametrize(("n", "samples"), [(1, 40_000), (4, 20_000), (16, 8_000)])
def test_responses_follow_the_exact_distribution(world, n, samples):
    """For one prompt: Pearson's X2 over the responses expected 10 times or more, within 5 of its sd."""
    prompt = 3
    table = sampler(world).generate([tabular.PROMPTS[prompt]], n, samples_per_prompt=samples)
    expected_Y = samples * exact_distribution(world[3][prompt], world[4], n)
    observed_Y = samples * frequencies(world, table, 0)
    frequent = expected_Y >= 10
    groups = (
        np.append(expected_Y[frequent], expected_Y[~frequent].sum()),
        np.append(observed_Y[frequent], observed_Y[~frequent].sum()),
    )
    statistic, freedom = ((groups[1] - groups[0]) ** 2 / groups[0]).sum(), frequent.sum()
    assert freedom > 20
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def test_more_candidates_come_closer_to_p_lam(world):
    """mapft/palette/README.md: KL(p_lam||q_n) = .079, .014, .004 nats for n = 4, 16, 64 where KL(p_lam||p0) = .443.

    With lam scaled to that KL, the exact distribution of this world has .066, .0055 and .0004, falling like 1/n^2.
    """
    p0_Y, tilt_Y = world[3][0], world[4]
    scale = next(s for s in np.linspace(0.3, 3, 400) if kl(p_lam(p0_Y, s * tilt_Y), p0_Y) >= 0.443)
    target_Y = p_lam(p0_Y, scale * tilt_Y)
    distributions = {n: exact_distribution(p0_Y, scale * tilt_Y, n) for n in (4, 16, 64)}
    distance = {n: kl(target_Y, q_Y) for n, q_Y in distributions.items()}
    for n, published in ((4, 0.079), (16, 0.014), (64, 0.004)):
        assert distributions[n].sum() == pytest.approx(1, abs=1e-6)
        assert (distributions[n] <= n * p0_Y + 1e-9).all()
        assert distance[n] <= published
    assert distance[4] > 0.05
    assert 10 < distance[16] / distance[64] < 20


def test_the_kl_of_one_or_two_responses_to_a_prompt_is_a_tight_upper_bound(world):
    """KL(q_n||p0) <= E[log n - H(p)], and the bound is tight: within .05 nats for n = 16."""
    table = sampler(world).generate([tabular.PROMPTS[0]] * 2000, 16, samples_per_prompt=2)
    truth = kl(exact_distribution(world[3][0], world[4], 16), world[3][0])
    noise = table["kl"].std() / np.sqrt(len(table))
    assert truth + 3 * noise < table["kl"].mean() < truth + 0.05


@pytest.mark.parametrize("n", [4, 16])
@pytest.mark.parametrize("draws", [3, 8])
def test_the_kl_of_three_or_more_responses_to_a_prompt_has_no_bias(world, n, draws):
    """The same prompt many times, each by itself."""
    copies = 6000 // draws
    table = sampler(world).generate([tabular.PROMPTS[0]] * copies, n, samples_per_prompt=draws)
    truth = kl(exact_distribution(world[3][0], world[4], n), world[3][0])
    means = table.groupby("prompt_id")["kl"].mean()
    error = means.std() / np.sqrt(copies)
    assert 4 * error < 0.06
    assert means.mean() == pytest.approx(truth, abs=4 * error)


@pytest.fixture(scope="module")
def tuned(world, tmp_path_factory):
    """A policy with an adapter of random weights, and log pi of each response as tokens per prompt (P, responses)."""
    folder = tmp_path_factory.mktemp("adapter")
    path = world[0].name_or_path
    torch.manual_seed(0)
    lora = LoraConfig(
        r=4, lora_alpha=1, init_lora_weights=False, target_modules="all-linear", exclude_modules=["lm_head"]
    )
    get_peft_model(load_policy(ModelConfig(path=path))[0], lora).save_pretrained(folder)
    policy = load_adapter(load_policy(ModelConfig(path=path))[0], folder)
    return policy, tabular.log_probs(policy)


def test_candidates_of_a_tuned_policy_tend_to_p_lam_too(world, tuned):
    """For one prompt: X2 against the exact distribution, with pi for p0 and lam.r - log pi/p0 for lam.r.

    The reported KL is KL(q_n||p0), and the distance to p_lam falls from KL(p_lam||pi) towards 0.
    """
    policy, log_pi_PY = tuned
    _, tokenizer, texts, _, tilt_Y = world
    decoded = [text.strip() for text in tokenizer.batch_decode(tabular.responses(), skip_special_tokens=True)]
    place = np.array([texts.index(text) for text in decoded])
    prompt, target_Y = 3, p_lam(world[3][3], tilt_Y)
    log_p0_Y = tabular.log_probs(world[0])[prompt]
    sampling, samples = SamplingConfig(max_new_tokens=tabular.STEPS, batch_size=4096), 20_000
    distance = []
    for n in (1, 4):
        aligned = AlignedSampler(policy, tokenizer, SCORES, LAM, sampling)
        table = aligned.generate([tabular.PROMPTS[prompt]], n, samples_per_prompt=samples)
        log_weight_Y = tilt_Y[place] - log_pi_PY[prompt] + log_p0_Y
        pi_Y = np.exp(log_pi_PY[prompt])
        tokens_Y = pi_Y if n == 1 else exact_distribution(pi_Y, log_weight_Y, n)
        exact_Y = np.bincount(place, tokens_Y, minlength=len(texts))
        expected_Y, observed_Y = samples * exact_Y, samples * frequencies(world, table, 0)
        frequent = expected_Y >= 10
        statistic = ((observed_Y - expected_Y)[frequent] ** 2 / expected_Y[frequent]).sum()
        assert abs(statistic - frequent.sum()) < 5 * np.sqrt(2 * frequent.sum())
        noise = table["kl"].std() / np.sqrt(len(table))
        assert table["kl"].mean() == pytest.approx(kl(tokens_Y, np.exp(log_p0_Y)), abs=4 * noise)
        distance.append(kl(target_Y, exact_Y))
    assert distance[0] > 5 * distance[1]
    with pytest.raises(UserError, match="choose=best is for candidates of the base policy; set choose=sample"):
        aligned.generate(tabular.PROMPTS, 4, "best")
    with pytest.raises(UserError, match="top_k=2 with top_p=1.0 does not work with candidates of a tuned policy"):
        AlignedSampler(policy, tokenizer, SCORES, LAM, SamplingConfig(top_k=2))


def test_rejection_is_exact(world):
    """Levels of p_lam within 4 standard errors, and exp(B) / Z(x) candidates until the first is accepted."""
    prompt, samples = 5, 1500
    table = sampler(world).generate([tabular.PROMPTS[prompt]], 32, "rejection", samples_per_prompt=samples)
    assert table["response"].notna().all()
    p_Y, texts = p_lam(world[3][prompt], world[4]), world[2]
    for name, score in (("sweet", sweet), ("short", short)):
        r_Y = np.array(score(None, texts))
        mean = p_Y @ r_Y
        error = np.sqrt(p_Y @ r_Y**2 - mean**2) / np.sqrt(samples)
        assert abs(table[name].mean() - mean) < 4 * error
    truth = p_Y @ world[4] - np.log(world[3][prompt] @ np.exp(world[4]))
    assert table["kl"].mean() == pytest.approx(truth, abs=0.1)
    accepted = world[3][prompt] @ np.exp(world[4] - LAM["sweet"] * 4 - LAM["short"])
    assert 0.001 < accepted < 0.5
    assert table["accepted"].sum() / table["candidates"].sum() == pytest.approx(accepted, rel=0.1)
    rounds = 1 / (1 - (1 - accepted) ** 32)
    assert table["candidates"].mean() / 32 == pytest.approx(rounds, rel=0.1)


@pytest.mark.parametrize("n", [1, 16])
def test_the_kl_of_one_rejection_response_per_prompt_has_no_bias(world, n):
    """The same prompt many times, each by itself."""
    prompt, copies = 5, 1500
    table = sampler(world).generate([tabular.PROMPTS[prompt]] * copies, n, "rejection", max_candidates=4096)
    p_Y = p_lam(world[3][prompt], world[4])
    truth = p_Y @ world[4] - np.log(world[3][prompt] @ np.exp(world[4]))
    error = table["kl"].std() / copies**0.5
    assert 4 * error < 0.2
    assert table["kl"].mean() == pytest.approx(truth, abs=4 * error)


@pytest.mark.parametrize("choose", ["sample", "best", "rejection"])
def test_a_column_belongs_to_its_row(world, choose):
    """One prompt three times with two answers: nearly all candidates of another answer have the probability 0."""
    policy, tokenizer, _, p0_PY, _ = world
    rewards = parse({"right": {"kind": "function", "target": f"{__name__}:right", "high": 0.0}})
    aligned = AlignedSampler(
        policy, tokenizer, rewards, {"right": 1.0}, SamplingConfig(max_new_tokens=tabular.STEPS, batch_size=8192)
    )
    answers = ["a", "b", "a"]
    table = aligned.generate([tabular.PROMPTS[0]] * 3, 64, choose, columns={"answer": answers}, samples_per_prompt=40)
    firsts = table.groupby("prompt_id")["response"].agg(lambda texts: {text.split()[0] for text in texts})
    assert firsts.tolist() == [{answer} for answer in answers]
    if choose == "rejection":  # log Z of each row by itself is log p0 of its answer
        p0_words = [
            p0_PY[0] @ np.array([float(text.split()[:1] == [answer]) for text in world[2]]) for answer in answers
        ]
        assert (table.groupby("prompt_id")["kl"].nunique() == 1).all()
        np.testing.assert_allclose(table.groupby("prompt_id")["kl"].mean(), -np.log(p0_words), atol=0.5)
    with pytest.raises(UserError, match="The column 'answer' has 2 values for 1 prompts; give one per prompt"):
        aligned.generate(["p"], 4, columns={"answer": answers[:2]})
    with pytest.raises(UserError, match="rewards.right reads the column 'answer', which the data does not have"):
        aligned.generate(tabular.PROMPTS[:1], 4, choose)


def test_rejection_reports_prompts_without_an_accepted_response(world):
    """At an acceptance rate near exp(-40), the row has no response."""
    table = sampler(world, sweet=10.0).generate(tabular.PROMPTS[:2], 4, "rejection", max_candidates=8)
    assert table["response"].isna().all()
    assert table["candidates"].tolist() == [8, 8]
    assert table["prompt"].tolist() == tabular.PROMPTS[:2]
    boundless = parse({"sweet": {"kind": "function", "target": f"{__name__}:sweet"}})
    with pytest.raises(UserError, match="sweet has none"):
        AlignedSampler(*world[:2], boundless, {"sweet": 1.0}).generate(tabular.PROMPTS, 4, "rejection")
    free = AlignedSampler(*world[:2], boundless, {}, SamplingConfig(max_new_tokens=tabular.STEPS))
    assert free.generate(tabular.PROMPTS[:1], 2, "rejection")["response"].notna().all()


def test_rejection_needs_a_true_bound(world):
    wrong = parse({"sweet": {"kind": "function", "target": f"{__name__}:sweet", "high": 0.1}})
    sampling = SamplingConfig(max_new_tokens=tabular.STEPS)
    with pytest.raises(UserError, match=r"has the score sweet=.*, above its declared bound 0.1"):
        AlignedSampler(*world[:2], wrong, {"sweet": 1.0}, sampling).generate(tabular.PROMPTS, 16, "rejection")


def test_best_is_the_argmax_of_the_same_candidates(world):
    sampled, best = (
        sampler(world).generate(tabular.PROMPTS, 8, choose, samples_per_prompt=50) for choose in ("sample", "best")
    )
    tilt = lambda table: sum(lam * table[name] for name, lam in LAM.items())  # noqa: E731
    assert (tilt(best) >= tilt(sampled)).all()
    assert (tilt(best) > tilt(sampled)).any()
    np.testing.assert_allclose(best["kl"], np.log(8) - 7 / 8)


def test_a_stream_can_start_at_any_chunk(world):
    complete = sampler(world, batch_size=24).generate(tabular.PROMPTS, 8)
    rest = list(sampler(world, batch_size=24).stream(tabular.PROMPTS, 8, first=3))
    assert [len(part) for part in rest] == [3, 2]
    assert rest[0]["prompt_id"].tolist() == [3, 4, 5]
    np.testing.assert_array_equal(rest[0].to_numpy(), complete[3:6].to_numpy())


def test_the_generation_defaults_are_restored(world):
    """For a model in training mode with an adapter, and a tokenizer without a padding token."""
    policy, tokenizer = world[:2]
    before, padding = policy.generation_config, tokenizer.pad_token
    tuned = get_peft_model(policy, LoraConfig(target_modules="all-linear")).train()
    tokenizer.pad_token = None
    table = AlignedSampler(tuned, tokenizer, SCORES, LAM, SamplingConfig(max_new_tokens=2)).generate(tabular.PROMPTS, 2)
    assert len(table) == len(tabular.PROMPTS)
    assert policy.generation_config is before
    assert tokenizer.pad_token is None
    assert tuned.training
    tokenizer.pad_token = padding
    tuned.unload()
    policy.eval()


def test_multipliers_are_checked(world):
    for lam, message in (
        ({"sour": 1.0}, "unknown value sour"),
        ({"sweet": -1.0}, "sweet=-1.0 is invalid"),
        ({"sweet": np.nan}, "sweet=nan is invalid"),
    ):
        with pytest.raises(UserError, match=message):
            AlignedSampler(*world[:2], SCORES, lam)
    with pytest.raises(UserError, match="at least 1"):
        sampler(world).generate(tabular.PROMPTS, 0)
    with pytest.raises(UserError, match="list of prompts is empty"):
        sampler(world).generate([])
    with pytest.raises(ValueError, match="sometimes"):
        sampler(world).generate(tabular.PROMPTS, 2, "sometimes")


def test_ess_kl_and_candidates_by_hand():
    """n equal candidates: n and 0 nats; one candidate with all the weight: 1 and log n."""
    ess, nats = ess_and_kl(np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 800.0, 0.0, 0.0]]))
    np.testing.assert_allclose(ess, [4, 1])
    np.testing.assert_allclose(nats, [0, np.log(4)], atol=1e-12)
    assert candidates_warning(np.log(16) - 1, 16) == ""
    assert "will be narrowly missed; use 17 candidates or more" in candidates_warning(np.log(16.5) - 1, 16)
    assert "will be missed" in candidates_warning(np.log(17), 16)
    assert Choose("best") is Choose.best
