"""An engine of the tabular world whose distribution differs from the policy's by a given KL. Truth: enumeration."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from peft import PeftModel
from scipy.optimize import brentq

from mapft.sampling.engines import Proposal
from tests.ppo import tabular

ROW = {tuple(tabular.tokenizer()(prompt)["input_ids"]): p for p, prompt in enumerate(tabular.PROMPTS)}
PROMPT_IDS = [list(ids) for ids in ROW]


class TabularEngine:
    """mu(y|x) = pi(y|x) exp(s g(x, y)) / Z(x) with normal g and s such that KL(pi||mu) = kl nats for the base model.

    ignores_adapter: as an engine would that does not support it.
    """

    def __init__(self, kl: float, ignores_adapter: bool = False) -> None:
        self.ignores_adapter, log_p0 = ignores_adapter, tabular.log_probs(tabular.model())
        self.noise = np.random.default_rng(5).normal(size=log_p0.shape)

        def excess(size: float) -> float:
            return tabular.kl(log_p0, tabular.tilted(log_p0, size * self.noise)) - kl

        self.size = brentq(excess, 0, 5) if kl else 0.0
        self.load(None)

    def load(self, adapter: Path | None) -> str:
        """The name is a folder that stays, as on a disk that processes share."""
        loaded = tempfile.mkdtemp()
        if adapter is not None:
            shutil.copytree(adapter, loaded, dirs_exist_ok=True)
        self.follow(loaded if adapter is not None else "")
        return loaded if adapter is not None else ""

    def follow(self, loaded: str) -> None:
        adapter = loaded or None
        model = tabular.model()
        if adapter is not None and not self.ignores_adapter:
            model = PeftModel.from_pretrained(model, adapter)
        self.model = model.eval()
        self.log_pi = tabular.log_probs(self.model)
        self.log_mu = tabular.tilted(self.log_pi, self.size * self.noise)

    def propose(self, prompts, seeds, eos_ids, max_new_tokens) -> list[Proposal]:
        proposals = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            log_mu_Y = self.log_mu[ROW[tuple(prompt)]] if tuple(prompt) in ROW else self.of_other(prompt)
            y = np.random.default_rng(seed).choice(len(log_mu_Y), p=np.exp(log_mu_Y))
            proposals.append(Proposal(list(tabular.responses()[y]), float(log_mu_Y[y])))
        return proposals

    def of_other(self, prompt: list[int]) -> np.ndarray:
        """Without noise."""
        return tabular.log_probs(self.model, heads=[prompt])[0]

    def policy(self, prompts, responses):
        """The pass of the policy."""
        numbers = {ids: y for y, ids in enumerate(tabular.responses())}
        logp = [self.log_pi[ROW[tuple(x)], numbers[tuple(y)]] for x, y in zip(prompts, responses, strict=True)]
        return logp, logp
