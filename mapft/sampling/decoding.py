"""Decoding-time alignment: responses that meet the palette, without training or after it.

One of n candidates y_1..y_n ~ p0(.|x) is returned (mapft/palette/README.md):

    sample      y_j with probability softmax_j(lam.r(x, y_j)). Its distribution q_n tends to p_lam, and q_n <= n p0
    best        argmax_j lam.r(x, y_j), "best of n"
    rejection   the first y_j with log u_j <= lam.r(x, y_j) - B, u_j uniform in [0, 1), B = sum_i lam_i max r_i. Its
                distribution is exactly p_lam. It needs a bound max r_i for every value with lam_i > 0, and on average
                exp(B) / Z(x) candidates

The candidates can come from a tuned policy pi, which needs fewer of them: y_j is returned with probability
softmax_j(lam.r(x, y_j) - log pi/p0(y_j|x)), and the distribution tends to p_lam for every pi.

Legend: P prompts of a chunk, n candidates, N = P * n.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from peft import PeftModel
from scipy.special import digamma, log_softmax, logsumexp, softmax

from mapft.config import Choose, SamplingConfig
from mapft.rewards import Score
from mapft.rewards.loader import RewardModels
from mapft.rewards.score import NO_COLUMNS, Columns, check_names
from mapft.sampling.engines import RejectionSampler
from mapft.sampling.models import TUNED, clear_generation_defaults
from mapft.sampling.prompts import Prompt, PromptRow, columns_of
from mapft.sampling.responses import generate
from mapft.sampling.tokens import render, token_rows
from mapft.utils.errors import UserError
from mapft.utils.seeds import derive_seed
from mapft.utils.text import text_of

TOLERANCE = 1e-6  # relative; a score may exceed its bound by this much
MOST_DRAWS = 4  # other draws of a prompt from which log q_n is estimated
SETS = 64  # of candidates, for each mean
BLOCK = 1 << 22  # numbers in memory


class AlignedSampler:
    """Generates aligned responses without training.

    model, tokenizer: p0, sampled with the settings `sampling` (max_new_tokens, temperature, ...); the model's own
    generation defaults are ignored. rewards: the scores by value name, from `mapft.rewards.parse`. lam: multipliers in
    nats per raw unit, >= 0, from `solve_dual`; values without a multiplier are scored with lam_i = 0. UserError for a
    negative or unknown multiplier. A model from `mapft.sampling.models.load_adapter` is a tuned policy pi; log pi/p0 is
    of the full distributions, so top_k and top_p are refused. engine: generates the candidates in place of
    transformers. Source: mapft/palette/README.md, "Decoding".
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rewards: Mapping[str, Score],
        lam: Mapping[str, float],
        sampling: SamplingConfig | None = None,
        engine: RejectionSampler | None = None,
    ):
        check_names(rewards)
        unknown = [name for name in lam if name not in rewards]
        invalid = [f"{name}={number}" for name, number in lam.items() if not 0 <= number < math.inf]
        if unknown:
            raise UserError(f"lam has the unknown value {unknown[0]}; the rewards are {', '.join(rewards)}.")
        if invalid:
            raise UserError(f"The multiplier {invalid[0]} is invalid; it must be finite and at least 0.")
        self.model, self.tokenizer, self.rewards = model, tokenizer, rewards
        self.lam = {name: float(lam.get(name, 0.0)) for name in rewards}
        self.sampling = sampling or SamplingConfig()
        self.models, self.engine = RewardModels(rewards), engine
        self.tuned = TUNED in getattr(model, "peft_config", {})
        if self.tuned and (self.sampling.top_k or self.sampling.top_p < 1):
            raise UserError(
                f"sampling.top_k={self.sampling.top_k} with top_p={self.sampling.top_p} does not work with candidates "
                "of a tuned policy, whose weights are of the full distributions; set top_k=0 and top_p=1."
            )

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: int = 16,
        choose: Choose | str = Choose.sample,
        *,
        columns: Columns = NO_COLUMNS,
        samples_per_prompt: int = 1,
        max_candidates: int = 4096,
        seed: int = 0,
    ) -> pd.DataFrame:
        """samples_per_prompt rows for every prompt, in order; the arguments and the columns are those of `stream`."""
        if not prompts:
            raise UserError("The list of prompts is empty; give at least one.")
        chunks = self.stream(
            prompts,
            n,
            choose,
            columns=columns,
            samples_per_prompt=samples_per_prompt,
            max_candidates=max_candidates,
            seed=seed,
        )
        return pd.concat(list(chunks), ignore_index=True)

    def stream(
        self,
        prompts: Sequence[Prompt] | Sequence[PromptRow],
        n: int = 16,
        choose: Choose | str = Choose.sample,
        *,
        columns: Columns = NO_COLUMNS,
        samples_per_prompt: int = 1,
        max_candidates: int = 4096,
        seed: int = 0,
        first: int = 0,
    ) -> Iterator[pd.DataFrame]:
        """The rows of `chunk_size` prompts at a time; every chunk has its own seed.

        prompts: texts, lists of messages, or rendered rows, which have their columns.
        columns: of the data, for scores that read any, with one value per prompt.
        The table has prompt_id, prompt, response (None where rejection accepted none of `max_candidates`), tokens,
        finished, one per value (raw score), candidates (generated for this response), ess = 1 / sum_j p_j^2 with
        p the probabilities of the candidates, and kl in nats. For `sample`, kl is an estimate of log q_n/p0 of the
        response (`log_density_ratio`), whose mean estimates KL(q_n || p0); with fewer than LEAST_DRAWS responses to a
        prompt, log n - entropy(p), plus sum_j p_j log pi/p0(y_j) for a tuned policy, whose mean is at least that KL.
        For `best`, the bound log n - (n - 1) / n; for `rejection`, lam.r - log Z (`_rejection_table`), whose mean
        estimates KL(p_lam || p0) where every row has a response, and there is an additional column `accepted`.
        first: skip the prompts before this one; a multiple of `chunk_size`.
        """
        choose, chunk = Choose(choose), self.chunk_size(n, samples_per_prompt)
        if n < 1 or samples_per_prompt < 1:
            raise UserError(f"n={n}, samples_per_prompt={samples_per_prompt}: both must be at least 1.")
        if self.tuned and choose is not Choose.sample:
            raise UserError(f"choose={choose.value} is for candidates of the base policy; set choose=sample.")
        if first % chunk:
            raise ValueError(f"first={first} is not a multiple of chunk_size={chunk}")
        bound = _max_tilt(self.rewards, self.lam) if choose is Choose.rejection else 0.0
        rows = self._rows(prompts, columns)
        for start in range(first, len(rows), chunk):
            repeated = [row for row in rows[start : start + chunk] for _ in range(samples_per_prompt)]
            prompt_ids = start + np.arange(len(repeated)) // samples_per_prompt
            chunk_seed = derive_seed(seed, "decode", start)
            if choose is Choose.rejection:
                table = self._sample_by_rejection(repeated, prompt_ids, n, bound, max_candidates, chunk_seed)
            else:
                table = self._choose_one(repeated, n, choose, samples_per_prompt, chunk_seed)
            table["prompt_id"] = prompt_ids
            yield table

    def chunk_size(self, n: int, samples_per_prompt: int = 1) -> int:
        """Number of prompts in a chunk of `stream`."""
        return max(1, self.sampling.batch_size // max(1, n * samples_per_prompt))

    def _rows(self, prompts: Sequence[Prompt] | Sequence[PromptRow], columns: Columns) -> list[PromptRow]:
        """Rendered. UserError for a column with another number of values than there are prompts."""
        for name, values in columns.items():
            if len(values) != len(prompts):
                raise UserError(
                    f"The column {name!r} has {len(values)} values for {len(prompts)} prompts; give one per prompt."
                )
        rows = [
            prompt
            if isinstance(prompt, PromptRow)
            else PromptRow(prompt, {name: values[number] for name, values in columns.items()})
            for number, prompt in enumerate(prompts)
        ]
        return rows if all(row.ids for row in rows) else render(rows, self.tokenizer)

    def _candidates(self, rows: Sequence[PromptRow], n: int, seed: int) -> pd.DataFrame:
        """n candidates of every prompt, sorted by prompt, with their scores, and tilt = lam.r - log pi/p0."""
        with _generation_defaults_cleared(self.model, self.tokenizer):
            table = generate(
                self.model,
                self.tokenizer,
                token_rows(rows),
                self.sampling,
                n,
                seed,
                measure_kl=self.tuned,
                engine=self.engine,
            )
        texts, responses = table["prompt"].tolist(), table["response"].tolist()
        columns = columns_of([rows[number] for number in table["prompt_id"]])
        table["tilt"] = -table["kl"] if self.tuned else 0.0
        for name, lam in self.lam.items():
            table[name] = self.models.score(name, texts, responses, columns)
            table["tilt"] += lam * table[name]
        return table

    def _choose_one(
        self, rows: Sequence[PromptRow], n: int, choose: Choose, samples_per_prompt: int, seed: int
    ) -> pd.DataFrame:
        """One of n candidates for every row, sampled or the best."""
        table = self._candidates(rows, n, seed)
        tilt_Pn = table["tilt"].to_numpy().reshape(-1, n)
        key_Pn = tilt_Pn
        if choose is Choose.sample:  # argmax_j (tilt_j + Gumbel noise) is distributed as softmax(tilt)
            key_Pn = tilt_Pn + np.random.default_rng(derive_seed(seed, "choice")).gumbel(size=tilt_Pn.shape)
        number_P = key_Pn.argmax(axis=1)
        chosen = table.iloc[number_P + n * np.arange(len(tilt_Pn))].reset_index(drop=True)
        ess_P, kl_P = ess_and_kl(tilt_Pn)
        chosen["candidates"], chosen["ess"] = n, ess_P
        if choose is Choose.best:
            chosen["kl"] = math.log(n) - (n - 1) / n
        elif not choose.kl_is_bound(samples_per_prompt):
            draws = (-1, samples_per_prompt)
            ratio = log_density_ratio(tilt_Pn.reshape(*draws, n), number_P.reshape(draws), derive_seed(seed, "sets"))
            chosen["kl"] = ratio.ravel() + (chosen["kl"] if self.tuned else 0.0)
        else:
            if self.tuned:
                kl_P = kl_P + (softmax(tilt_Pn, axis=1) * table["kl"].to_numpy().reshape(-1, n)).sum(axis=1)
            chosen["kl"] = kl_P
        return chosen.drop(columns="tilt")

    def _sample_by_rejection(
        self,
        rows: Sequence[PromptRow],
        prompt_ids: np.ndarray,
        n: int,
        bound: float,
        max_candidates: int,
        seed: int,
    ) -> pd.DataFrame:
        """Rounds of n candidates for every row without an accepted response."""
        results: list[dict[str, Any]] = [{"prompt": text_of(row.prompt)} for row in rows]
        tilts: list[list[float]] = [[] for _ in rows]
        accepted, trials = [0] * len(rows), [0] * len(rows)
        for number in range(math.ceil(max_candidates / n)):
            pending = [index for index, result in enumerate(results) if "response" not in result]
            if not pending:
                break
            round_seed = derive_seed(seed, "round", number)
            table = self._candidates([rows[index] for index in pending], n, round_seed)
            _check_bounds(self.rewards, self.lam, table)
            uniform_N = np.random.default_rng(derive_seed(round_seed, "choice")).random(len(table))
            accepted_N = np.log(uniform_N) <= table["tilt"].to_numpy() - bound
            for start, index in zip(range(0, len(table), n), pending, strict=True):
                candidates = slice(start, start + n)
                tilts[index] += table["tilt"][candidates].tolist()
                accepted[index] += int(accepted_N[candidates].sum())
                if accepted_N[candidates].any():
                    first = int(accepted_N[candidates].argmax())
                    results[index] = {str(key): cell for key, cell in table.iloc[start + first].items()}
                    trials[index] += first + 1
                else:
                    trials[index] += n
        return _rejection_table(results, prompt_ids, tilts, accepted, trials, self.lam, bound)


def ess_and_kl(tilt_Pn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Effective sample size 1 / sum p^2, and log n - entropy(p) in nats, of p = softmax(tilt) over the last axis."""
    logp_Pn = log_softmax(tilt_Pn, axis=-1)
    p_Pn = np.exp(logp_Pn)
    return 1 / (p_Pn**2).sum(axis=-1), math.log(tilt_Pn.shape[-1]) + (p_Pn * logp_Pn).sum(axis=-1)


def log_density_ratio(tilt_PDn: np.ndarray, chosen_PD: np.ndarray, seed: int) -> np.ndarray:
    """log q_n/pi of the chosen candidates (P, D), of D >= LEAST_DRAWS draws, each of n candidates.

    log q_n/pi (y) = log n + t(y) + log E 1 / (exp t(y) + S),   t the tilt, S the sum of exp t over n - 1 candidates

    E is the mean over random sets of n - 1 candidates of other draws. The logarithm of a mean is biased; the jackknife
    over those draws removes the bias of order 1 / draws.
    """
    prompts, draws, n = tilt_PDn.shape
    if n == 1:
        return np.zeros((prompts, draws))
    others, rng = min(draws - 1, MOST_DRAWS), np.random.default_rng(seed)
    number_DK = (np.arange(draws)[:, None] + np.arange(1, others + 1)) % draws
    tilt_NM = tilt_PDn[:, number_DK].reshape(prompts * draws, others * n)
    own_N = np.take_along_axis(tilt_PDn, chosen_PD[..., None], axis=2).ravel()
    rows = max(1, BLOCK // (SETS * n))

    def log_mean(columns_M: np.ndarray) -> np.ndarray:
        sets_Rk = rng.permuted(np.tile(columns_M, (SETS, 1)), axis=1)[:, : n - 1]
        parts = []
        for start in range(0, len(own_N), rows):
            block = slice(start, start + rows)
            total_NR = logsumexp(tilt_NM[block][:, sets_Rk], axis=2)
            parts.append(logsumexp(-np.logaddexp(own_N[block, None], total_NR), axis=1) - math.log(SETS))
        return np.concatenate(parts)

    every_M = np.arange(others * n)
    without = [log_mean(np.delete(every_M, slice(k * n, (k + 1) * n))) for k in range(others)]
    log_mean_N = others * log_mean(every_M) - (others - 1) * np.mean(without, axis=0)
    return (math.log(n) + own_N + log_mean_N).reshape(prompts, draws)


def candidates_warning(kl: float, n: int) -> str:
    """A warning if n candidates are too few for a palette at this KL(p_lam || p0), else ""; KL(q_n || p0) <= log n."""
    if kl <= math.log(n) - 1:
        return ""
    shortfall = "missed" if kl > math.log(n) else "narrowly missed"
    return (
        f"The palette needs a KL of {kl:.2f} nats, and {n} candidates allow at most log {n} = {math.log(n):.2f}, so "
        f"its levels will be {shortfall}; use {math.ceil(math.exp(kl + 1))} candidates or more."
    )


def _rejection_table(
    results: list[dict[str, Any]],
    prompt_ids: np.ndarray,
    tilts: list[list[float]],
    accepted: list[int],
    trials: list[int],
    lam: Mapping[str, float],
    bound: float,
) -> pd.DataFrame:
    """The accepted responses with candidates, accepted, ess and kl.

    tilts: of all candidates of a row. trials: candidates of a row up to its first accepted one. With T trials for M
    responses to a prompt, E[psi(T) - psi(M)] = -log p (psi: digamma) where every row has a response, and p = exp(-B) Z
    is the probability that a candidate is accepted; the log of a share of accepted ones would be biased, by .5 nats for
    one response. Where rows have none within the candidates that are allowed, it is too low.
    """
    chosen = pd.DataFrame(results, columns=["prompt", "response", "tokens", "finished", *lam])
    chosen["candidates"], chosen["accepted"] = [len(tilt) for tilt in tilts], accepted
    chosen["ess"] = [float(ess_and_kl(np.array([tilt]))[0][0]) for tilt in tilts]
    tilt_N = sum(number * chosen[name].astype(float) for name, number in lam.items())
    each = pd.DataFrame({"trials": trials, "responses": chosen["response"].notna()})
    totals = each.groupby(prompt_ids).transform("sum").astype(float)
    chosen["kl"] = tilt_N - bound + digamma(totals["trials"]) - digamma(totals["responses"])
    return chosen


def _max_tilt(rewards: Mapping[str, Score], lam: Mapping[str, float]) -> float:
    """B, the upper bound of lam.r, from the bounds of the scores."""
    bounds = {name: rewards[name].bounds[1] for name, multiplier in lam.items() if multiplier > 0}
    unbounded = [name for name, high in bounds.items() if not math.isfinite(high)]
    if unbounded:
        raise UserError(
            f"choose=rejection needs an upper bound of every score, and {', '.join(unbounded)} has none; set "
            "choose=sample, or use a bounded score (classifier: output=probability; function: high=...)."
        )
    return sum(lam[name] * high for name, high in bounds.items())


def _check_bounds(rewards: Mapping[str, Score], lam: Mapping[str, float], table: pd.DataFrame) -> None:
    """UserError for a score above its declared bound."""
    for name, multiplier in lam.items():
        high = rewards[name].bounds[1]
        if multiplier > 0 and table[name].max() > high + TOLERANCE * max(1.0, abs(high)):
            raise UserError(
                f"A response has the score {name}={table[name].max():g}, above its declared bound {high:g}, so "
                "rejection would not be exact; declare the true bound, or set choose=sample."
            )


@contextmanager
def _generation_defaults_cleared(model: Any, tokenizer: Any) -> Iterator[None]:
    """Inside, the model has no generation defaults and no dropout, and the tokenizer has a padding token."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    defaults, pad_token, training = causal.generation_config, tokenizer.pad_token, model.training
    if pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    clear_generation_defaults(causal, tokenizer)
    model.eval()
    try:
        yield
    finally:
        causal.generation_config = defaults
        model.train(training)
        if pad_token is None:
            tokenizer.pad_token = None
