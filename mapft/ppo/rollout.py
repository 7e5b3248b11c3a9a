"""One rollout: responses, rewards, advantages, and the critic's fit. `RolloutTrainer.rollout` is the page to read.

Shapes: B responses of this process, N responses of all processes, T response tokens, D features, F reward functions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.functional import pad

from mapft.config import Trunk
from mapft.ppo.batch import Batch, padded_batch
from mapft.ppo.checkpoint import ResumableTrainer
from mapft.ppo.engine import PolicyEngine
from mapft.ppo.estimation import (
    advantages_and_returns,
    discounted,
    explained_variance,
    k1,
    masked_moments,
    token_rewards,
    whiten,
)
from mapft.ppo.generation import Texts, TokenGenerator, generate_batch
from mapft.ppo.log_probs import batched_log_probs
from mapft.ppo.metrics import log_objective, log_rewards, timed
from mapft.ppo.replay import Group, flattened
from mapft.ppo.trl_seam import Generate, is_zero3_enabled, use_adapter, without_gradient_checkpointing
from mapft.utils.forward import Head, causal_model
from mapft.utils.seeds import derive_seed
from mapft.utils.terminal import make_console, progress

LOG_RATIO = "log_ratio"  # the argument of reward functions that has log pi(y|x)/p0(y|x) of each response
ROUNDING = 1e-4  # nats: far above the rounding of a response's log-probability, far below what a reward is worth


class RolloutTrainer(ResumableTrainer):
    """The first half of a PPO iteration."""

    head: Head
    token_generator: TokenGenerator
    engine: PolicyEngine | None

    def rollout(self, rows: list[dict[str, Any]]) -> Batch:
        """Generate, score, estimate advantages and, in training, fit the critic; returns the batch for `loss`."""
        if self.model.training:
            torch.manual_seed(self.seed_of("rollout"))
        with timed(self, "generation"):
            batch, texts = generate_batch(self, rows)
        mask_BT = batch["mask"]
        with timed(self, "log_probs"):
            features_BTD = self.add_log_probs(batch)
        kl_BT = k1(batch["old_logp"], batch["ref_logp"], mask_BT)
        for row, log_ratio in zip(rows, kl_BT.sum(dim=1).tolist(), strict=True):
            row[LOG_RATIO] = log_ratio
        with timed(self, "rewards"):
            score_B = self.scores(rows, texts)
        if self.model.training and self.args.replay_batch:
            self.store(batch, texts["completion_ids"])
        rewards_BT = token_rewards(score_B, kl_BT, mask_BT, self.args.kl_coef)
        self.critic.begin(self._global_moments(rewards_BT.flip(1).cumsum(1).flip(1), mask_BT))
        values_BT = self.critic.values(features_BTD, mask_BT, self.args.critic_minibatch)
        batch["advantages"], returns_BT = advantages_and_returns(
            rewards_BT, values_BT, mask_BT, gamma=self.args.gamma, gae_lambda=self.args.gae_lambda
        )
        log_objective(self, score_B, kl_BT, batch["old_logp"], values_BT[:, 0])
        errors, returns = (self._global_moments(x_BT, mask_BT) for x_BT in (returns_BT - values_BT, returns_BT))
        self.metrics["critic/explained_variance"].append(explained_variance(errors, returns))
        if self.model.training:
            with timed(self, "critic"):
                self.fit_critic(features_BTD, returns_BT, mask_BT)
        self.rollout_columns["advantages"].extend(gather_object(batch["advantages"].sum(dim=1).tolist()))
        batch["advantages"] = self.policy_advantages(batch["advantages"], mask_BT)
        return batch

    def generate_tokens(
        self, prompt_ids: list[list[int]], generate: Generate
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """See `TokenGenerator`; in one part where generation gathers sharded weights, as often on every process."""
        if self.engine is not None:
            return self.engine.tokens(prompt_ids)
        causal = causal_model(self.model)
        splittable = not (self.is_fsdp_enabled or is_zero3_enabled())
        # TRL switches checkpointing off to generate, but not on again where generation raises.
        with without_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            return self.token_generator(causal, prompt_ids, generate, splittable=splittable)

    def add_log_probs(self, batch: Batch) -> Tensor:
        """Add old_logp = log pi and ref_logp = log p0 of every token; return the critic's features (B, T, D)."""
        on_policy = self.args.critic_trunk == "policy"
        features_BTD = torch.zeros(0)
        if on_policy or "old_logp" not in batch:
            batch["old_logp"], features_BTD = self.log_probs(self.model, batch, features=on_policy)
        with self.reference() as reference:
            batch["ref_logp"], reference_BTD = self.log_probs(reference, batch, features=not on_policy)
        return features_BTD if on_policy else reference_BTD

    def log_probs(self, model: Any, batch: Batch, *, features: bool) -> tuple[Tensor, Tensor]:
        """log p(token) under `model` (B, T) without gradients and, if requested, its hidden states (B, T, D)."""
        rows_per_pass = self.args.local_rollout_forward_batch_size
        checkpointing = self.args.gradient_checkpointing_kwargs
        with self.accelerator.autocast(), without_gradient_checkpointing(self.model, checkpointing):
            return batched_log_probs(model, batch, self.head, rows_per_pass=rows_per_pass, features=features)

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """p0: the policy with its adapter off, or on the frozen copy of its first one; else a second model."""
        if self.ref_model is not None:
            yield self.ref_model
            return
        model = self.accelerator.unwrap_model(self.model)
        with use_adapter(model, "ref" if "ref" in model.peft_config else None):
            yield self.model

    def store(self, batch: Batch, completion_ids: list[list[int]]) -> None:
        """Add this process's responses to the replay store, in groups of one prompt."""
        scores_BV = self.raw_scores(len(completion_ids))
        ref_logp_B = (batch["ref_logp"] * batch["mask"]).sum(dim=1).tolist()
        size = self.args.num_generations
        groups = []
        for first in range(0, len(completion_ids), size):
            rows, prompt_mask = slice(first, first + size), batch["prompt_mask"][first].bool()
            prompt_ids = batch["prompt_ids"][first][prompt_mask].tolist()
            groups.append(Group(prompt_ids, completion_ids[rows], scores_BV[rows], ref_logp_B[rows]))
        self.replay.add(groups)

    def raw_scores(self, rows: int) -> list[list[float]]:
        """Raw scores of the last rollout's responses of this process, (B, V)."""
        kind, names = ("extra", self.replay.columns) if self.replay.columns else ("rewards", self.reward_func_names)
        scores_NV = list(zip(*(self.rollout_columns[kind][name] for name in names), strict=True))
        start = self.accelerator.process_index * rows  # the columns hold the responses of all processes
        return [list(scores_V) for scores_V in scores_NV[start : start + rows]]

    def replayed(self, position: int) -> Batch:
        """A micro-batch's share of the stored responses of its optimizer step, with group, R and log p0 of each.

        `share` is its part of the step's groups, times the number of micro-batches: weighted by it, the mean over
        micro-batches is the mean over groups for every micro-batch size. Empty where the micro-batch has no group; of
        several processes it then has share 0, because all must take part in the same passes.
        """
        micro_batches = self.args.gradient_accumulation_steps
        step, number = divmod(position, micro_batches)
        if self.iteration < 0:
            seed = derive_seed(self.args.seed, "warm start", self.accelerator.process_index)
            sampled = self.replay.part_of_pass(self.args.replay_batch, self.state.global_step, seed)
        else:
            sampled = self.replay.sample(self.args.replay_batch, self.seed_of("replay", step))
        own = sampled[number::micro_batches]
        if not own and self.accelerator.num_processes == 1:
            return {}
        groups = own or sampled[:1]
        batch, device = self.batch_of(*flattened(groups)), self.accelerator.device
        batch["share"] = torch.tensor(len(own) * micro_batches / len(sampled), device=device)
        sizes = torch.tensor([len(group) for group in groups])
        batch["group"] = torch.arange(len(groups)).repeat_interleave(sizes).to(device)
        batch["ref_logp"] = torch.tensor([logp for group in groups for logp in group.ref_logp], device=device)
        scores_BV = torch.tensor([scores for group in groups for scores in group.scores], dtype=torch.float64)
        batch["reward"] = self.replay.price(scores_BV).float().to(device)
        return batch

    def prepare_replay(self) -> None:
        """Add log p0 to the stored responses that lack it, those of p0, and fit the critic on them.

        The return of such a response is its R, discounted, so the critic begins as the value function of p0. Each fit
        has about as many responses as a rollout. Every process makes the same passes and the same steps: one with fewer
        responses repeats some.
        """
        groups = [group for group in self.replay.groups if not group.ref_logp]
        prompt_ids, completion_ids = flattened(groups)
        own, counts = len(completion_ids), gather_object([len(completion_ids)])
        most = max(counts)
        if not most:
            return
        assert min(counts), "every process has its share of the stored groups"
        scores_BV = torch.tensor([scores for group in groups for scores in group.scores], dtype=torch.float64)
        score_B = self.replay.price(scores_BV).float().to(self.accelerator.device)
        moments = self._global_moments(score_B, torch.ones_like(score_B))
        self.critic.begin(moments)
        rollout = self.args.per_device_train_batch_size * self.args.steps_per_generation
        fits = np.array_split(np.arange(most), max(1, round(most / rollout)))
        rows = self.args.local_rollout_forward_batch_size
        order = np.random.default_rng(self.seed_of("critic order")).permutation(own)
        logp_B = np.zeros(own)
        quiet = self.args.disable_tqdm or not self.accelerator.is_main_process
        with progress(make_console(stderr=True, quiet=quiet)) as update:
            for step, fit in enumerate(fits):
                parts: list[tuple[Tensor, Tensor, Tensor]] = []  # features, returns and mask of each pass
                for first in range(0, len(fit), rows):
                    part = order[fit[first : first + rows] % own]
                    batch = self.batch_of([prompt_ids[row] for row in part], [completion_ids[row] for row in part])
                    logp_B[part], features_BTD = self.reference_pass(batch)
                    returns_BT = discounted(score_B[part], batch["mask"], self.args.gamma)
                    parts.append((features_BTD, returns_BT, batch["mask"]))
                    update("log p0 of stored responses", int(fit[first]) + len(part), most)
                if self.args.critic_trunk == Trunk.reference:
                    features_BTD, returns_BT, mask_BT = (_as_one(arrays) for arrays in zip(*parts, strict=True))
                    self._fit(features_BTD, returns_BT, mask_BT, moments, self.seed_of("critic", step))
        ends = np.cumsum([len(group) for group in groups])
        for group, logp_K in zip(groups, np.split(logp_B, ends[:-1]), strict=True):
            group.set_ref_logp(logp_K)

    def reference_pass(self, batch: Batch) -> tuple[list[float], Tensor]:
        """log p0(y|x) of every response in nats, and the critic's features (B, T, D) where the reference has them."""
        features = self.args.critic_trunk == Trunk.reference
        with self.reference() as reference:
            logp_BT, features_BTD = self.log_probs(reference, batch, features=features)
        return (logp_BT * batch["mask"]).sum(dim=1).tolist(), features_BTD

    def batch_of(self, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]]) -> Batch:
        """Token ids on this process's device."""
        return padded_batch(prompt_ids, completion_ids, self.text_tokenizer.pad_token_id, self.accelerator.device)

    def weighted_sum(self, scores_NF: Tensor) -> Tensor:
        """R = sum_f w_f r_f, (N,)."""
        return (scores_NF * self.reward_weights.to(scores_NF)).sum(dim=1)

    def scores(self, rows: list[dict[str, Any]], texts: Texts) -> Tensor:
        """R = sum_f w_f * r_f of this process's responses, (B,)."""
        rewards_NF = self.rewards_of_functions(rows, texts["prompts"], texts["completions"], texts["completion_ids"])
        log_rewards(self, rewards_NF, texts)
        start = self.accelerator.process_index * len(rows)
        return self.weighted_sum(rewards_NF)[start : start + len(rows)]

    def fit_critic(self, features_BTD: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> None:
        """critic_epochs passes over the rollout; every process takes the same steps."""
        moments = self._global_moments(returns_BT, mask_BT)
        figures = self._fit(features_BTD, returns_BT, mask_BT, moments, self.seed_of("critic"))
        for name, figure in figures.items():
            self.metrics[name].append(self.accelerator.reduce(figure, reduction="mean").item())

    def _fit(
        self, features_BTD: Tensor, returns_BT: Tensor, mask_BT: Tensor, moments: Tensor, seed: int
    ) -> dict[str, Tensor]:
        return self.critic.fit(
            features_BTD,
            returns_BT,
            mask_BT,
            moments,
            epochs=self.args.critic_epochs,
            minibatch=self.args.critic_minibatch,
            cliprange=self.args.cliprange_value,
            generator=torch.Generator().manual_seed(seed),
            reduce_mean=lambda grad: self.accelerator.reduce(grad, reduction="mean"),
        )

    def policy_advantages(self, advantages_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Whitened advantages; 0, and so without a gradient, while the critic warms up."""
        if self.iteration < self.args.critic_warmup_iterations:
            return torch.zeros_like(advantages_BT)
        if not self.args.whiten_advantages:
            return advantages_BT
        moments = self._global_moments(advantages_BT, mask_BT)
        return whiten(advantages_BT, mask_BT, moments, least_sd=ROUNDING * self.args.kl_coef).float()

    @property
    def iteration(self) -> int:
        """Rollouts before the current one; below 0 in the warm start, which has none."""
        return self.state.global_step // self.args.steps_per_iteration - self.begun.warm_start

    def seed_of(self, *name: int | str) -> int:
        """Seed of a random stream of this iteration and process; it depends on no state, so resuming repeats it."""
        iteration = self.state.global_step // self.args.steps_per_iteration
        return derive_seed(self.args.seed, *name, iteration, self.accelerator.process_index)

    @property
    def completions(self) -> dict[str, list[Any]]:
        """The last rollout in columns: prompt, completion, reward/{function}, and what functions gave to log_extra."""
        columns = self.rollout_columns
        rewards = {f"reward/{name}": list(column) for name, column in columns["rewards"].items()}
        extra = {name: list(column) for name, column in columns["extra"].items()}
        return {key: list(columns[key]) for key in ("prompt", "completion")} | rewards | extra

    def _global_moments(self, x_BT: Tensor, mask_BT: Tensor) -> Tensor:
        return self.sum_over_processes(masked_moments(x_BT, mask_BT))

    def sum_over_processes(self, x: Tensor) -> Tensor:
        """A tensor summed over all processes."""
        return self.accelerator.reduce(x, reduction="sum")


def _as_one(parts: Sequence[Tensor]) -> Tensor:
    """Arrays (B, T, ...) of different T as one, with zeros at the end of the shorter ones."""
    length = max(part.size(1) for part in parts)
    return torch.cat([pad(part, (0, 0) * (part.dim() - 2) + (0, length - part.size(1))) for part in parts])
