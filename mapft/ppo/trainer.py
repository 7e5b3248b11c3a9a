"""PPOTrainer: TRL's GRPOTrainer with a critic, the KL in the reward, and token-level advantages.

TRL removed its PPO after 1.12; its maintainers' route for another estimator is a subclass of GRPOTrainer that
returns its own advantages from `_generate_and_score_completions`. We take generation, reward functions, data loading,
logging and the distributed set-up from it, and own the rest. tests/ppo/test_trl_contract.py names every private
member used here.

Shapes: B responses of this process, P prompt tokens (left-padded), T response tokens (right-padded), D features,
F reward functions.
"""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import pad, use_adapter

from mapft.errors import UserError
from mapft.forward import model_inputs, peak_gb, response_texts
from mapft.halving import Halving
from mapft.ppo.batch import Batch, all_fp32, causal_model, response_states, switch_off_dropout, take
from mapft.ppo.checkpoint import ResumableTrainer
from mapft.ppo.config import EXACT_SAMPLING, PPOConfig
from mapft.ppo.critic import Critic
from mapft.ppo.estimation import (
    advantages_and_returns,
    effective_share,
    explained_variance,
    k1,
    masked_moments,
    token_rewards,
    whiten,
)
from mapft.ppo.generation import keep_log_probs
from mapft.ppo.loss import policy_loss
from mapft.ppo.refusals import refuse_what_ppo_cannot_do
from mapft.ppo.reward_functions import named_failures
from mapft.ppo.sampler import PromptSampler
from mapft.seeding import derive_seed

ROUNDING = 1e-4  # nats: far above the rounding of a response's log-probability, far below what a reward is worth


class PPOTrainer(ResumableTrainer):
    """PPO with a LoRA policy whose base, adapter switched off, is the reference and the critic's trunk.

    Maximises E_x[ E_{y~pi} R(x,y) - kl_coef * KL(pi(.|x) || p0(.|x)) ], whose optimum is p0 exp(R/kl_coef)/Z, with
    R = sum_f reward_weights[f] * reward_funcs[f]. The constructor is that of TRL's trainers: `model` (a path or a
    model), `reward_funcs` (TRL reward functions or sequence classifiers), `args` (`PPOConfig`), datasets with a
    `prompt` column (text or messages), `processing_class`, `peft_config`.

    Raises UserError for a streamed dataset, and for a reward that is missing or not finite (never taken as 0).
    """

    _tag_names: ClassVar = ["trl", "ppo"]
    _name = "PPO"
    _paper: ClassVar = {"title": "Proximal Policy Optimization Algorithms", "id": "1707.06347"}
    args: PPOConfig

    def __init__(self, model: Any, reward_funcs: Any, args: PPOConfig, train_dataset: Dataset, **kwargs: Any):
        if not isinstance(train_dataset, Dataset):
            raise UserError(
                f"train_dataset is a {type(train_dataset).__name__}; PPO shuffles prompts by number and needs a "
                "datasets.Dataset (for a stream, take a part of it into memory first)."
            )
        refuse_what_ppo_cannot_do(model, kwargs)
        args = copy.copy(args)
        episodes = args.total_episodes or math.ceil(args.num_train_epochs * len(train_dataset) * args.num_generations)
        if args.max_steps > 0:
            episodes = math.ceil(args.max_steps / args.steps_per_iteration) * args.generation_batch_size
        self.iterations = math.ceil(episodes / args.generation_batch_size)
        args.max_steps = self.iterations * args.steps_per_iteration
        every = args.save_steps if args.save_steps >= 1 else args.save_steps * args.max_steps
        # Between iterations there is no rollout to save: checkpoints fall there.
        args.save_steps = math.ceil(every / args.steps_per_iteration) * args.steps_per_iteration
        if args.eval_steps:  # the best model so far is saved where it is evaluated
            every = args.eval_steps if args.eval_steps >= 1 else args.eval_steps * args.max_steps
            args.eval_steps = math.ceil(every / args.steps_per_iteration) * args.steps_per_iteration
        # TRL's copy of a trained adapter leaves out embeddings, and over a quantised base it rounds what it trains.
        given = adapter_state(model) if isinstance(model, PeftModel) else {}
        several = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        named = [named_failures(function, args.reward_retries) for function in several]
        super().__init__(model, named, args=args, train_dataset=train_dataset, **kwargs)
        if not isinstance(self.processing_class, PreTrainedTokenizerBase):
            raise UserError("processing_class is a multimodal processor; PPO takes text models with a tokenizer.")
        if isinstance(self.model, PeftModel):  # over a quantised base TRL makes it bf16, where small steps are lost
            for parameter in filter(lambda p: p.requires_grad, self.model.parameters()):
                parameter.data = parameter.data.float()
            for name in ("default", "ref") if given else ():
                set_peft_model_state_dict(self.model, given, adapter_name=name)
        if args.disable_dropout:
            for each in filter(None, (self.model, self.ref_model)):
                switch_off_dropout(each)
        own = causal_model(self.model).generation_config  # of the model's own decoding defaults, none may be left
        causal_model(self.model).generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id, eos_token_id=self.eos_token_ids, pad_token_id=self._tokenizer.pad_token_id
        )
        features = causal_model(self.model).get_output_embeddings().in_features
        with torch.random.fork_rng():  # every process starts with the same critic
            torch.manual_seed(derive_seed(args.seed, "critic"))
            self.critic = Critic(features, args.critic_width, args.critic_learning_rate)
        self.critic.to(self.accelerator.device)
        exact = all(getattr(args, name) == to for name, to in EXACT_SAMPLING.items())
        half = args.bf16 or args.fp16
        plain = args.cache_implementation is None and not args.use_transformers_continuous_batching
        self._keeps_log_probs = exact and not half and plain
        # TRL never compiles; on a GPU a static cache is there to be decoded with a compiled step.
        self.generation_config.disable_compile = args.cache_implementation != "static"
        self._in_parts = Halving()
        self._rollout: Batch = {}
        self._plan: list[Tensor] = []

    # ---------------------------------------------------------------- one iteration: rollout, advantages, critic

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Batch:
        """Sample, score, estimate advantages, and (in training) fit the critic; the batch that the loss needs."""
        mode = "train" if self.model.training else "eval"
        if mode == "train":
            torch.manual_seed(self._stream("rollout"))
        with self._timed("generation", mode):
            batch, texts = self._generate_rollout(inputs)
        mask_BT = batch["mask"]
        with self._timed("log_probs", mode):
            features_BTD = self._add_log_probs(batch)
        with self._timed("rewards", mode):
            score_B = self._scores(inputs, texts, mode)
        kl_BT = k1(batch["old_logp"], batch["ref_logp"], mask_BT)
        rewards_BT = token_rewards(score_B, kl_BT, mask_BT, self.args.kl_coef)
        values_BT = self.critic.values(features_BTD, mask_BT, self.args.critic_minibatch)
        batch["advantages"], returns_BT = advantages_and_returns(
            rewards_BT, values_BT, mask_BT, gamma=self.args.gamma, gae_lambda=self.args.gae_lambda
        )
        self._log_rollout(mode, score_B, kl_BT, batch["old_logp"], values_BT[:, 0])
        errors, spread = (
            self._sum_over_processes(masked_moments(x, mask_BT)) for x in (returns_BT - values_BT, returns_BT)
        )
        self._metrics[mode]["critic/explained_variance"].append(explained_variance(errors, spread))
        if mode == "train":
            with self._timed("critic", mode):
                self._fit_critic(features_BTD, returns_BT, mask_BT)
        self._logs["advantages"].extend(gather_object(batch["advantages"].sum(dim=1).tolist()))
        if self.state.global_step < self.args.critic_warmup_iterations * self.args.steps_per_iteration:
            batch["advantages"].zero_()  # the policy's gradient is then 0
        elif self.args.whiten_advantages:
            moments = self._sum_over_processes(masked_moments(batch["advantages"], mask_BT))
            least = ROUNDING * self.args.kl_coef
            batch["advantages"] = whiten(batch["advantages"], mask_BT, moments, least).float()
        return batch

    def _generate_rollout(self, inputs: list[dict[str, Any]]) -> tuple[Batch, dict[str, list[Any]]]:
        """Responses of the current policy by TRL's generation backends; masks come from lengths, never from ids."""
        prompts = [row["prompt"] for row in inputs]
        prompt_ids, completion_ids, tool_mask, completions, logprobs, extra, *_ = self._generate(prompts)
        if tool_mask is not None:
            raise UserError("rollout_func gave an env_mask; PPOTrainer trains on every token of a completion.")
        for name, given in extra.items():  # of a rollout_func, for the reward functions: one for each row, or for all
            for number, row in enumerate(inputs):
                row[name] = given[number] if isinstance(given, list) else given

        def padded(rows: list[Any], side: str, value: float) -> Tensor:
            return pad([torch.tensor(row) for row in rows], value, side).to(self.accelerator.device)

        pad_id = self._tokenizer.pad_token_id
        batch = {
            "prompt_ids": padded(prompt_ids, "left", pad_id),
            "prompt_mask": padded([[1] * len(ids) for ids in prompt_ids], "left", 0),
            "completion_ids": padded(completion_ids, "right", pad_id),
            "mask": padded([[1] * len(ids) for ids in completion_ids], "right", 0),
        }
        if logprobs is not None and self.rollout_func is None:  # a rollout_func's are those of its own sampler
            batch["old_logp"] = padded(logprobs, "right", 0.0)
        texts = response_texts(self._tokenizer, prompt_ids, completion_ids)  # as the pilot's were read
        completions = [_read(given, text) for given, text in zip(completions, texts, strict=True)]
        return batch, {"prompts": prompts, "completions": completions, "completion_ids": completion_ids}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """TRL's generation, in parts where memory is short; in fp32 with the log-probabilities of what it drew.

        That saves the policy's own pass. In half precision and over a quantised base a decoding step and a pass over
        the whole sequence differ by more than rounding should cost (the first ratio would not be 1), so there the
        pass is made.
        """
        causal = causal_model(self.accelerator.unwrap_model(self.model))
        single_turn = super()._generate_single_turn

        def draw(some: Sequence[list[int]]) -> tuple[list[list[int]], list[list[float]]]:
            if not self._keeps_log_probs or not all_fp32(causal):
                return single_turn(some, *args, **kwargs)[0], []
            with keep_log_probs(causal) as drawn:
                completion_ids = single_turn(some, *args, **kwargs)[0]
            return completion_ids, drawn.log_probs(completion_ids)

        # TRL switches checkpointing off to generate, and forgets to switch it on again where that raises.
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            if self.is_fsdp_enabled or is_deepspeed_zero3_enabled():  # weights are gathered, as often in each process
                parts = [draw(prompt_ids)]
            else:
                parts = self._in_parts(prompt_ids, draw)
        logprobs = [row for _, found in parts for row in found]
        return [ids for completions, _ in parts for ids in completions], logprobs or None

    def _add_log_probs(self, batch: Batch) -> Tensor:
        """Add log pi and log p0 of every token to the batch; return the critic's features (B, T, D)."""
        on_policy = self.args.critic_trunk == "policy"
        features_BTD = torch.zeros(0)
        if on_policy or "old_logp" not in batch:
            batch["old_logp"], features_BTD = self._log_probs(self.model, batch, features=on_policy)
        with self._reference() as reference:
            batch["ref_logp"], reference_BTD = self._log_probs(reference, batch, features=not on_policy)
        return features_BTD if on_policy else reference_BTD

    def _log_probs(self, model: Any, batch: Batch, *, features: bool) -> tuple[Tensor, Tensor]:
        """log p(token) (B, T) under `model` without gradients and, if asked, the hidden state before it (B, T, D).

        Passes run over rows sorted by length, each cut to its own longest row.
        """
        mask_BT = batch["mask"]
        logp_BT = torch.zeros_like(mask_BT, dtype=torch.float32)
        features_BTD = torch.zeros(0)
        order = (batch["prompt_mask"].sum(1) + mask_BT.sum(1)).argsort(stable=True)
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            for rows in order.split(self.args.local_rollout_forward_batch_size):
                part = take(batch, rows)
                logp, _, hidden_ND = self._logp(model, part)
                width = part["mask"].size(1)
                logp_BT[rows, :width] = logp
                if features:
                    if not features_BTD.numel():
                        features_BTD = hidden_ND.new_zeros(*mask_BT.shape, hidden_ND.size(-1))
                    chosen = part["mask"].bool()
                    features_BTD[rows[:, None].expand_as(chosen)[chosen], chosen.nonzero()[:, 1]] = hidden_ND
        return logp_BT, features_BTD

    def _logp(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """log-probabilities and entropies (B, T) of the response tokens, fp32, and the N hidden states before them.

        TRL's fused LM head sees those N states alone: no logits of prompt or padding, and never (B, T, V) logits.
        """
        input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention_mask = torch.cat([batch["prompt_mask"], batch["mask"]], dim=1)
        causal = causal_model(self.accelerator.unwrap_model(model))
        chosen = batch["mask"].bool()
        with self.accelerator.autocast(), response_states(causal, chosen, batch["prompt_ids"].size(1)) as seen:
            outputs = model(
                **model_inputs(causal, input_ids, attention_mask),
                shift_labels=batch["completion_ids"][chosen][None],
                fused_lm_head=True,
            )
        zeros_BT = torch.zeros(chosen.shape, device=chosen.device)
        logp_BT = zeros_BT.masked_scatter(chosen, outputs.log_probs.float())
        if outputs.entropy is None:  # TRL's twin of a policy without adapter gives none
            return logp_BT, zeros_BT, seen[0]
        return logp_BT, zeros_BT.masked_scatter(chosen, outputs.entropy.float()), seen[0]

    @contextmanager
    def _reference(self) -> Iterator[Any]:
        """p0: the policy with its adapter off (or on the frozen copy of the adapter it began with), else its twin."""
        if self.ref_model is not None:
            yield self.ref_model
            return
        model = self.accelerator.unwrap_model(self.model)
        with use_adapter(model, "ref" if "ref" in model.peft_config else None):
            yield self.model

    def _stream(self, *name: int | str) -> int:
        """Seed of a random stream of this iteration and process; it depends on no state, so resuming repeats it."""
        iteration = self.state.global_step // self.args.steps_per_iteration
        return derive_seed(self.args.seed, *name, iteration, self.accelerator.process_index)

    def _scores(self, inputs: list[dict[str, Any]], texts: dict[str, list[Any]], mode: str) -> Tensor:
        """R = sum_f w_f * r_f of this process's responses, (B,); logs every function's raw scores."""
        rewards_NF = self._calculate_rewards(inputs, texts["prompts"], texts["completions"], texts["completion_ids"])
        for name, column in zip(self.reward_func_names, rewards_NF.T, strict=True):
            bad = (~column.isfinite()).nonzero()
            if len(bad):
                raise UserError(
                    f"The reward function {name!r} gave {column[bad[0, 0]].item()} for response {bad[0, 0].item()}; "
                    "a missing score is never taken as 0: make it return a finite number for every response."
                )
            self._metrics[mode][f"rewards/{name}/mean"].extend(column.tolist())
            self._metrics[mode][f"rewards/{name}/std"].append(column.std(correction=0).item())
            self._logs["rewards"][name].extend(column.tolist())
        for key in ("prompt", "completion"):
            self._logs[key].extend(gather_object(texts[f"{key}s"]))
        self._flush_reward_metrics(mode)
        local = len(inputs)
        start = self.accelerator.process_index * local
        return (rewards_NF * self.reward_weights.to(rewards_NF.device)).sum(dim=1)[start : start + local]

    def _fit_critic(self, features_BTD: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> None:
        generator = torch.Generator().manual_seed(self._stream("critic"))
        fitted = self.critic.fit(
            features_BTD,
            returns_BT,
            mask_BT,
            self._sum_over_processes(masked_moments(returns_BT, mask_BT)),
            epochs=self.args.critic_epochs,
            minibatch=self.args.critic_minibatch,
            cliprange=self.args.cliprange_value,
            generator=generator,
            reduce_mean=lambda grad: self.accelerator.reduce(grad, reduction="mean"),
        )
        for name, value in fitted.items():
            self._metrics["train"][name].append(self.accelerator.reduce(value, reduction="mean").item())

    # ---------------------------------------------------------------- the optimizer steps of one iteration

    def _prepare_inputs(self, inputs: list[dict[str, Any]]) -> Batch:
        """The next micro-batch; a new rollout when the last one has been passed over num_ppo_epochs times."""
        if not self.model.training:
            return self._generate_and_score_completions(inputs)
        per_epoch = self.args.steps_per_generation
        position = self._step % (per_epoch * self.num_iterations)
        if position == 0:
            with self._timed("rollout", "train"):
                self._rollout = self._generate_and_score_completions(inputs)
            self._rollout_seconds = self._metrics["train"]["timing/rollout"][-1]
        if position % per_epoch == 0:
            self._plan = self._plan_epoch(position // per_epoch)
        return take(self._rollout, self._plan[position % per_epoch])

    def _plan_epoch(self, epoch: int) -> list[Tensor]:
        """Rows of every micro-batch of one pass: random mini-batches, each sorted by length and cut up."""
        lengths = self._rollout["prompt_mask"].sum(1) + self._rollout["mask"].sum(1)
        generator = torch.Generator().manual_seed(self._stream("epoch", epoch))
        order = torch.randperm(len(lengths), generator=generator).to(lengths.device)
        plan: list[Tensor] = []
        for rows in order.tensor_split(self.args.num_mini_batches):
            by_length = rows[lengths[rows].argsort(stable=True)]
            plan.extend(by_length.split(self.args.per_device_train_batch_size))
        return plan

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch, a new rollout before it where one is due; logs what the update took without the rollout."""
        with self._timed("update", "train"):
            self._rollout_seconds = 0.0
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._metrics["train"]["timing/update"][-1] -= self._rollout_seconds
        self._metrics["train"]["memory/peak_gb"].append(peak_gb(self.accelerator.device))
        return loss

    def _compute_loss(self, model: Any, inputs: Batch) -> Tensor:
        logp_BT, entropy_BT, _ = self._logp(model, inputs)
        loss, sums = policy_loss(
            logp_BT,
            inputs["old_logp"],
            inputs["advantages"],
            inputs["mask"],
            cliprange=self.args.cliprange,
            max_length=self.max_completion_length,
        )
        entropy = (entropy_BT * inputs["mask"]).sum().detach()
        tokens, *means = self._sum_over_processes(torch.stack([*sums, entropy])).tolist()
        clipped, half_square, ratio, ratio_square, entropy_mean = (x / tokens for x in means)
        for name, value in {
            "loss/policy_avg": self.accelerator.reduce(loss.detach(), reduction="mean").item(),
            "policy/clipfrac_avg": clipped,
            "policy/approxkl_avg": half_square,
            "policy/entropy_avg": entropy_mean,
            "val/ratio": ratio,
            "val/ratio_var": max(ratio_square - ratio**2, 0.0),
        }.items():
            self._metrics["train"][name].append(value)
        return loss / self.current_gradient_accumulation_steps

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, None, None]:
        """The evaluation loss is -(E[R] - kl_coef * KL), which training minimises."""
        seen = len(self._metrics["eval"]["objective/rlhf_reward"])
        self._prepare_inputs(inputs)
        objective = torch.tensor(self._metrics["eval"]["objective/rlhf_reward"][seen:])
        return -objective.mean().to(self.accelerator.device), None, None

    def _get_train_sampler(self, dataset: Dataset | None = None) -> PromptSampler:
        return PromptSampler(
            prompts=len(self.train_dataset),
            per_iteration=self.args.generation_batch_size // self.args.num_generations,
            num_generations=self.args.num_generations,
            repeats=self.args.steps_per_generation * self.args.num_ppo_epochs,
            iterations=self.iterations,
            seed=self.args.seed,
        )

    # ---------------------------------------------------------------- logs and checkpoints

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, with the responses learnt from so far as `episodes`."""
        iterations = self.state.global_step / self.args.steps_per_iteration
        logs["episodes"] = round(iterations * self.args.generation_batch_size)
        super().log(logs, start_time)

    def _log_rollout(self, mode: str, score_B: Tensor, kl_BT: Tensor, logp_BT: Tensor, value_B: Tensor) -> None:
        """Sums over the tokens of a response, averaged over the responses of all processes, under TRL PPO's names.

        value_B: the critic's V(x). At the optimum every response's return R - kl_coef * log pi/p_ref is
        kl_coef * log Z(x); what is left of it beyond V(x) is a log-weight, and objective/ess what they are worth.
        """
        kl_B = kl_BT.sum(1)
        columns = {
            "objective/kl": kl_B,
            "objective/entropy": -logp_BT.sum(1),
            "objective/non_score_reward": -self.args.kl_coef * kl_B,
            "objective/scores": score_B,
            "objective/rlhf_reward": score_B - self.args.kl_coef * kl_B,
        }
        for name, column in columns.items():
            self._metrics[mode][name].extend(self.accelerator.gather(column).tolist())
        log_weights_N = self.accelerator.gather((columns["objective/rlhf_reward"] - value_B) / self.args.kl_coef)
        self._metrics[mode]["objective/ess"].append(effective_share(log_weights_N))

    @property
    def completions(self) -> dict[str, list[Any]]:
        """The last rollout in columns: prompt, completion, each reward function's, and what they gave to log_extra."""
        rewards = {f"reward/{name}": list(column) for name, column in self._logs["rewards"].items()}
        extra = {name: list(column) for name, column in self._logs["extra"].items()}
        return {key: list(self._logs[key]) for key in ("prompt", "completion")} | rewards | extra

    def _flush_reward_metrics(self, mode: str) -> None:
        """Metrics and columns that reward functions gave to `log_metric` and `log_extra`, over all processes."""
        for name in sorted(set(gather_object(list(self._pending_metrics)))):
            values = gather_object(self._pending_metrics.get(name, []))
            self._metrics[mode][name].append(sum(values) / len(values))
        for name in sorted(set(gather_object(list(self._pending_extra_logs)))):
            self._logs["extra"][name].extend(gather_object(self._pending_extra_logs.get(name, [])))
        self._pending_metrics.clear()
        self._pending_extra_logs.clear()

    @contextmanager
    def _timed(self, name: str, mode: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()  # or the next part would pay for what this one has queued
        self._metrics[mode][f"timing/{name}"].append(time.perf_counter() - begin)

    def _sum_over_processes(self, x: Tensor) -> Tensor:
        return self.accelerator.reduce(x, reduction="sum")


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """A copy of the adapter's numbers as they are."""
    state = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    return {name: array.detach().clone() for name, array in state.items()}


def _read(completion: Any, text: str) -> Any:
    """The text in place of what TRL decoded; a message that it parsed into more than its content is left."""
    if isinstance(completion, str):
        return text
    return [completion[0] | {"content": text}] if completion[0].keys() == {"role", "content"} else completion
