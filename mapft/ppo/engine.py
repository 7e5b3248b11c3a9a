"""Rollouts whose responses an engine proposes and the policy accepts (mapft/sampling/engines)."""

from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from peft import PeftModel

from mapft.ppo.step_zero import moved
from mapft.ppo.trl_seam import is_zero3_enabled
from mapft.sampling.engines import RejectionSampler, mismatch
from mapft.sampling.engines.exact import check_ends
from mapft.utils.consistency import HALF_TOLERANCE, probe_tokens
from mapft.utils.errors import UserError
from mapft.utils.forward import causal_model

PROBE_TOKENS = 4  # of each response with which an engine is checked


class PolicyEngine:
    """An engine that follows the policy of a trainer.

    UserError for a policy without an adapter, or with sharded weights, and for an engine that does not have the
    policy's log-probabilities, also with an adapter of large random weights: one that ignores adapters or has another
    base model is found here.
    """

    def __init__(self, sampler: RejectionSampler, trainer: Any) -> None:
        self.sampler, self.trainer = sampler, trainer
        name = sampler.settings.name
        sharded = trainer.is_fsdp_enabled or is_zero3_enabled()
        if not isinstance(self.model, PeftModel) or sharded:
            raise UserError(
                f"engine={name} needs an adapter, which the servers load, and weights that are not sharded (ZeRO-3, "
                "FSDP); give peft_config, launch ddp or zero2, or set engine=transformers."
            )
        if trainer.rollout_func is not None:
            raise UserError(f"engine={name} and rollout_func both generate the responses; leave one out.")
        for what, changed in (("before training", nullcontext()), ("of large random weights", moved(self.model))):
            with changed:
                self._check(what)

    @property
    def model(self) -> Any:
        """The policy without the wrapper of distributed training: each process makes passes of its own number."""
        return self.trainer.accelerator.unwrap_model(self.trainer.model)

    def tokens(self, prompt_ids: list[list[int]]) -> tuple[list[list[int]], list[list[float]]]:
        """A response to every prompt, and its log-probabilities under the policy."""

        def policy(prompts: list[list[int]], responses: list[list[int]]) -> tuple[list[float], list[list[float]]]:
            logp_BT = self._log_probs(prompts, responses)
            rows = [logp_T[: len(ids)].tolist() for logp_T, ids in zip(logp_BT, responses, strict=True)]
            return logp_BT.sum(dim=1).tolist(), rows

        self._load()
        accepted = self.sampler.sample(
            policy,
            prompt_ids,
            eos_ids=self.trainer.eos_token_ids,
            max_new_tokens=self.trainer.max_completion_length,
            seed=int(torch.randint(2**31, ())),  # the rollout has seeded this process
        )
        log_ratios = gather_object([each.log_ratio for each in accepted])
        for name, number in mismatch(log_ratios, self.sampler.settings.max_ratio).metrics.items():
            self.trainer.metrics[name].append(number)
        self.sampler.judge(log_ratios)
        return [each.ids for each in accepted], [each.kept for each in accepted]

    def _log_probs(self, prompts: list[list[int]], responses: list[list[int]]) -> torch.Tensor:
        batch = self.trainer.batch_of(prompts, responses)
        logp_BT, _ = self.trainer.log_probs(self.model, batch, features=False)
        return logp_BT

    def _load(self) -> None:
        """Load the policy of this step once no process generates with the previous one."""
        accelerator, engine = self.trainer.accelerator, self.sampler.engine
        accelerator.wait_for_everyone()
        loaded = [""]
        if accelerator.is_main_process:
            with TemporaryDirectory() as folder:
                self.model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
                loaded = [engine.load(Path(folder))]
        broadcast_object_list(loaded)
        if not accelerator.is_main_process:
            engine.follow(loaded[0])

    def _check(self, what: str) -> None:
        """Compare log-probabilities of two responses from every server. what: the adapter, in messages."""
        self._load()
        servers = max(1, len(self.sampler.settings.urls))
        prompts = probe_tokens(causal_model(self.model)) * servers
        eos_ids, tokens = self.trainer.eos_token_ids, min(PROBE_TOKENS, self.trainer.max_completion_length)
        proposals = self.sampler.engine.propose(prompts, range(len(prompts)), eos_ids, tokens)
        check_ends(proposals, eos_ids, tokens)
        ids = [proposal.ids for proposal in proposals]
        logp_N = self._log_probs(prompts, ids).sum(dim=1).tolist()
        pairs = zip(logp_N, proposals, strict=True)
        nats = max(abs(logp - proposal.logp) / len(proposal.ids) for logp, proposal in pairs)
        if not nats <= HALF_TOLERANCE:
            raise UserError(
                f"With the adapter {what}, the engine's log-probabilities differ by {nats:.2g} nats per token from the "
                "policy's; check that the servers of engine.urls have the model of model.path, and use adapters."
            )
