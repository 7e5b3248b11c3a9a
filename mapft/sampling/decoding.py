"""Decoding-time alignment: responses that keep the palette, from the base policy as it is.

Of n candidates y_1..y_n ~ p0(.|x) one is returned (method section 6):

    draw        y_j with probability softmax_j(lam.r(x, y_j)): its law q_n tends to p_lam, and q_n <= n p0
    best        argmax_j lam.r(x, y_j), "best of n"
    rejection   the first y_j with log u_j <= lam.r(x, y_j) - B, u uniform: exactly p_lam, where every value with
                lam_i > 0 has a greatest score, B = sum_i lam_i max r_i; about exp(B) / Z(x) candidates are needed

Legend: P prompts of a chunk, n candidates, N = P * n.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from peft import PeftModel
from scipy.special import log_softmax

from mapft.config import Choose, SamplingConfig
from mapft.errors import UserError
from mapft.rewards import Score
from mapft.rewards.loader import RewardModels
from mapft.sampling.generate import draw, tokenize
from mapft.sampling.models import neutralize_decoding
from mapft.sampling.prompts import Prompt, text_of
from mapft.seeding import derive_seed

ROUNDING = 1e-6  # by which a score may pass its bound


class AlignedSampler:
    """Draws aligned responses; nothing is trained.

    model, tokenizer: p0, which is sampled as `sampling` says (max_new_tokens, temperature, ...; the model's own
    decoding defaults are put aside meanwhile). rewards: the scores by value name, from `mapft.rewards.parse`.
    lam: nats per raw unit, >= 0, as `solve_dual` gives it; values it does not name are scored and do not count.
    Raises UserError for a negative or unknown multiplier. Source: method section 6.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rewards: Mapping[str, Score],
        lam: Mapping[str, float],
        sampling: SamplingConfig | None = None,
    ):
        unknown = [name for name in lam if name not in rewards]
        wrong = [f"{name}={number}" for name, number in lam.items() if not 0 <= number < math.inf]
        if unknown:
            raise UserError(f"lam names {', '.join(unknown)}, which no reward scores ({', '.join(rewards)}).")
        if wrong:
            raise UserError(f"lam of {', '.join(wrong)} is out of range; multipliers are finite and at least 0.")
        self.model, self.tokenizer, self.rewards = model, tokenizer, rewards
        self.lam = {name: float(lam.get(name, 0.0)) for name in rewards}
        self.sampling = sampling or SamplingConfig()
        self.models = RewardModels(rewards)

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: int = 16,
        choose: Choose | str = Choose.draw,
        *,
        samples_per_prompt: int = 1,
        most: int = 4096,
        seed: int = 0,
    ) -> pd.DataFrame:
        """samples_per_prompt rows for every prompt, in order; the columns are those of `stream`."""
        if not prompts:
            raise UserError("There are no prompts to answer; give one or more.")
        chunks = self.stream(prompts, n, choose, samples_per_prompt=samples_per_prompt, most=most, seed=seed)
        return pd.concat(list(chunks), ignore_index=True)

    def stream(
        self,
        prompts: Sequence[Prompt],
        n: int = 16,
        choose: Choose | str = Choose.draw,
        *,
        samples_per_prompt: int = 1,
        most: int = 4096,
        seed: int = 0,
        first: int = 0,
    ) -> Iterator[pd.DataFrame]:
        """The rows of a few prompts at a time; each chunk draws from its own seed, so one may start at any of them.

        Columns: prompt_id, prompt, response (None where rejection accepted none of `most` candidates), tokens,
        finished, one per value (raw score), candidates (drawn for this response), ess = 1 / sum_j p_j^2 with
        p = softmax(lam.r), and kl in nats. For `draw`, kl = log n - entropy(p), whose mean is at least KL(q_n || p0);
        for `best`, the bound log n - (n - 1) / n; for `rejection`, lam.r - B - log(accepted / candidates) of the
        prompt, whose mean estimates KL(p_lam || p0), with a column `accepted` more.
        `first` (a multiple of `chunk_size`) leaves out the prompts before it.
        """
        choose, chunk = Choose(choose), self.chunk_size(n, samples_per_prompt)
        if n < 1 or samples_per_prompt < 1:
            raise UserError(f"n={n}, samples_per_prompt={samples_per_prompt}: both must be at least 1.")
        if first % chunk:
            raise ValueError(f"first={first} is no multiple of {chunk}")
        bound = self._bound() if choose is Choose.rejection else 0.0
        for start in range(first, len(prompts), chunk):
            wanted = [prompt for prompt in prompts[start : start + chunk] for _ in range(samples_per_prompt)]
            stream = derive_seed(seed, "decode", start)
            if choose is Choose.rejection:
                rows = self._rejected(wanted, n, bound, most, stream)
            else:
                rows = self._chosen(wanted, n, choose, stream)
            rows["prompt_id"] = start + np.arange(len(wanted)) // samples_per_prompt
            yield rows

    def chunk_size(self, n: int, samples_per_prompt: int = 1) -> int:
        """Prompts that `stream` answers at a time."""
        return max(1, self.sampling.batch_size // max(1, n * samples_per_prompt))

    def _candidates(self, prompts: Sequence[Prompt], n: int, seed: int) -> pd.DataFrame:
        """n candidates of every prompt, rows sorted by prompt, with their scores and lam.r as `tilt`."""
        with _neutral(self.model, self.tokenizer):
            table = draw(self.model, self.tokenizer, tokenize(prompts, self.tokenizer), self.sampling, n, seed)
        texts, responses = table["prompt"].tolist(), table["response"].tolist()
        table["tilt"] = 0.0
        for name, lam in self.lam.items():
            table[name] = self.models.score(name, texts, responses)
            table["tilt"] += lam * table[name]
        return table

    def _chosen(self, prompts: Sequence[Prompt], n: int, choose: Choose, seed: int) -> pd.DataFrame:
        table = self._candidates(prompts, n, seed)
        tilt_Pn = table["tilt"].to_numpy().reshape(-1, n)
        key_Pn = tilt_Pn
        if choose is Choose.draw:  # argmax_j (tilt_j + Gumbel noise) is a draw by softmax(tilt)
            key_Pn = tilt_Pn + np.random.default_rng(derive_seed(seed, "choice")).gumbel(size=tilt_Pn.shape)
        rows = table.iloc[key_Pn.argmax(axis=1) + n * np.arange(len(tilt_Pn))].reset_index(drop=True)
        ess_P, kl_P = effective(tilt_Pn)
        rows["candidates"], rows["ess"] = n, ess_P
        rows["kl"] = kl_P if choose is Choose.draw else math.log(n) - (n - 1) / n
        return rows.drop(columns="tilt")

    def _rejected(self, prompts: Sequence[Prompt], n: int, bound: float, most: int, seed: int) -> pd.DataFrame:
        """Rounds of n candidates for the prompts that have no response yet."""
        rows: list[dict[str, Any]] = [{"prompt": text_of(prompt)} for prompt in prompts]
        tilts: list[list[float]] = [[] for _ in prompts]
        accepted = [0] * len(prompts)
        for number in range(math.ceil(most / n)):
            waiting = [row for row, found in enumerate(rows) if "response" not in found]
            if not waiting:
                break
            stream = derive_seed(seed, "round", number)
            table = self._candidates([prompts[row] for row in waiting], n, stream)
            self._hold_to_bounds(table)
            uniform_N = np.random.default_rng(derive_seed(stream, "choice")).random(len(table))
            accepted_N = np.log(uniform_N) <= table["tilt"].to_numpy() - bound
            for place, row in enumerate(waiting):
                own = slice(place * n, (place + 1) * n)
                tilts[row] += table["tilt"][own].tolist()
                accepted[row] += int(accepted_N[own].sum())
                if accepted_N[own].any():
                    found = table.iloc[own.start + int(accepted_N[own].argmax())]
                    rows[row] = {str(key): cell for key, cell in found.items()}
        chosen = pd.DataFrame(rows, columns=["prompt", "response", "tokens", "finished", *self.lam])
        chosen["candidates"], chosen["accepted"] = [len(tilt) for tilt in tilts], accepted
        chosen["ess"] = [float(effective(np.array([tilt]))[0][0]) for tilt in tilts]
        tilt_N = sum(lam * chosen[name].astype(float) for name, lam in self.lam.items())
        share_N = chosen.groupby("prompt")[["accepted", "candidates"]].transform("sum").astype(float)
        with np.errstate(divide="ignore"):  # log Z(x) = B + log of the share that is accepted
            chosen["kl"] = tilt_N - bound - np.log(share_N["accepted"] / share_N["candidates"])
        return chosen

    def _hold_to_bounds(self, table: pd.DataFrame) -> None:
        for name, lam in self.lam.items():
            high = self.rewards[name].bounds[1]
            if lam > 0 and table[name].max() > high + ROUNDING * max(1.0, abs(high)):
                raise UserError(
                    f"{name} scored {table[name].max():g}, above the {high:g} that it declares as its greatest score, "
                    "so rejection would not be exact: declare the true one, or choose=draw."
                )

    def _bound(self) -> float:
        """max over all responses of lam.r, from the bounds that the scores declare."""
        greatest = {name: self.rewards[name].bounds[1] for name, lam in self.lam.items() if lam > 0}
        endless = [name for name, high in greatest.items() if not math.isfinite(high)]
        if endless:
            raise UserError(
                f"choose=rejection needs a greatest score, and {', '.join(endless)} has none; choose=draw, or score a "
                "probability (classifier: output=probability; function: high=...)."
            )
        return sum(self.lam[name] * high for name, high in greatest.items())


def effective(tilt_Pn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of p = softmax(tilt) over the last axis: 1 / sum p^2, in candidates, and log n - entropy(p), in nats."""
    logp_Pn = log_softmax(tilt_Pn, axis=-1)
    p_Pn = np.exp(logp_Pn)
    return 1 / (p_Pn**2).sum(axis=-1), math.log(tilt_Pn.shape[-1]) + (p_Pn * logp_Pn).sum(axis=-1)


def too_few(kl: float, n: int) -> str:
    """The sentence for a palette that n candidates cannot reach, or nothing; from KL(q_n || p0) <= log n."""
    if kl <= math.log(n) - 1:
        return ""
    what = "will be missed" if kl > math.log(n) else "will not quite be reached"
    return (
        f"The palette needs {kl:.2f} nats, and what {n} candidates give is at most log {n} = {math.log(n):.2f} nats "
        f"from the base policy, so its levels {what}; draw {math.ceil(math.exp(kl + 1))} candidates or more."
    )


@contextmanager
def _neutral(model: Any, tokenizer: Any) -> Iterator[None]:
    """Inside, the model has no decoding defaults of its own and no dropout, and the tokenizer can pad."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    own, padding, training = causal.generation_config, tokenizer.pad_token, model.training
    if padding is None:
        tokenizer.pad_token = tokenizer.eos_token
    neutralize_decoding(causal, tokenizer)
    model.eval()
    try:
        yield
    finally:
        causal.generation_config = own
        model.train(training)
        if padding is None:
            tokenizer.pad_token = None
