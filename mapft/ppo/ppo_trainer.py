"""PPOTrainer: TRL's GRPOTrainer with a critic, the KL in the reward, and token-level advantages.

TRL removed its PPO after 1.12; its maintainers' route for another estimator is a subclass of GRPOTrainer with its own
advantages. Data loading, reward functions, generation, logging and the distributed set-up are TRL's (trl_seam.py).
An iteration is one `rollout` (rollout.py) and the optimizer steps on it, whose `loss` is here.

Shapes: B responses of this process, T response tokens.
"""

from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from mapft.ppo.arguments import check_arguments, check_tokenizer
from mapft.ppo.batch import Batch, plan_epoch, select_rows
from mapft.ppo.critic import Critic
from mapft.ppo.engine import PolicyEngine
from mapft.ppo.generation import TokenGenerator
from mapft.ppo.loss import policy_loss, variance_loss
from mapft.ppo.metrics import log_update, timed
from mapft.ppo.policy import (
    adapter_state,
    remove_decoding_defaults,
    restore_adapter,
    switch_off_dropout,
)
from mapft.ppo.ppo_config import PPOConfig
from mapft.ppo.prompt_sampler import PromptSampler
from mapft.ppo.replay import ReplayStore
from mapft.ppo.reward_functions import with_retries
from mapft.ppo.rollout import RolloutTrainer
from mapft.ppo.schedule import (
    Progress,
    decay_first,
    in_whole_iterations,
    prompts_per_iteration,
    warm_start_iterations,
)
from mapft.ppo.step_zero import check_policy, check_training_mode, exact_head
from mapft.ppo.trl_seam import fused_log_probs, whole_weights_of
from mapft.sampling.engines import RejectionSampler
from mapft.utils.consistency import own_log_probs, padded_pass
from mapft.utils.device import peak_gb
from mapft.utils.forward import Head, causal_model, own_head, response_log_probs
from mapft.utils.seeds import derive_seed


class PPOTrainer(RolloutTrainer):
    """PPO with a LoRA policy whose base, adapter switched off, is the reference and the critic's trunk.

    Maximises E_x[ E_{y~pi} R(x,y) - kl_coef * KL(pi(.|x) || p0(.|x)) ], whose optimum is p0 exp(R/kl_coef)/Z, with
    R = sum_f reward_weights[f] * reward_funcs[f]. The constructor is that of TRL's trainers: `model` (a path or a
    model), `reward_funcs` (TRL reward functions or sequence classifiers), `args` (`PPOConfig`), datasets with a
    `prompt` column (text or messages), `processing_class`, `peft_config`. Where a dataset has a column
    `prompt_token_ids`, these tokens are the prompts, and `prompt` is for reward functions. Those also get `log_ratio`,
    log pi/p0 of each response in nats, and `response_texts`, the text of each without special tokens, also where TRL
    parses it into messages.

    engine: generates rollouts in place of transformers; see mapft/sampling/engines.

    replay: where responses are stored for the regression of args.replay_batch, with those that are scored already; the
    same on every process, each of which keeps its share.

    Raises UserError for a streamed dataset, and for a reward that is missing or not finite (never replaced by 0).
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: PPOConfig,
        train_dataset: Dataset,
        replay: ReplayStore | None = None,
        engine: RejectionSampler | None = None,
        **kwargs: Any,
    ):
        check_arguments(model, train_dataset, kwargs)
        self.replay = replay or ReplayStore(args.replay_capacity, self.weighted_sum)
        self.begun = Progress(0, warm_start_iterations(args, self.replay.groups))
        args = in_whole_iterations(args, len(train_dataset), self.begun.warm_start)
        adapter = adapter_state(model)
        initial_N = None
        if not isinstance(model, str):
            with whole_weights_of(model):
                initial_N = own_log_probs(model)
        functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        functions = [with_retries(function, args.reward_retries) for function in functions]
        super().__init__(model, functions, args=args, train_dataset=train_dataset, **kwargs)
        check_tokenizer(self.processing_class)
        restore_adapter(self.model, adapter)
        if args.disable_dropout:
            for network in filter(None, (self.model, self.ref_model)):
                switch_off_dropout(network)
        causal = causal_model(self.model)
        remove_decoding_defaults(causal, self.eos_token_ids, self.text_tokenizer.pad_token_id)
        self.head, features = self.checked_head(initial_N)
        with torch.random.fork_rng():  # every process starts with the same critic
            torch.manual_seed(derive_seed(args.seed, "critic"))
            self.critic = Critic(features, args.critic_width, args.critic_learning_rate)
        self.critic.to(self.accelerator.device)
        # TRL never compiles; on a GPU the purpose of a static cache is to decode with a compiled step.
        self.generation_config.disable_compile = args.cache_implementation != "static"
        self.token_generator = TokenGenerator(args)
        self.engine = None if engine is None else PolicyEngine(engine, self)
        self.replay.keep_share(self.accelerator.process_index, self.accelerator.num_processes)
        self.batch: Batch = {}
        self._plan: list[Tensor] = []
        self._rollout_seconds = 0.0
        self._replay_prepared = False

    def checked_head(self, initial_N: Tensor | None) -> tuple[Head, int]:
        """What computes log-probabilities in training, and the width of its input, after the checks of step_zero.py.

        initial_N: `own_log_probs` of the model that was given, where it is known.
        """
        with whole_weights_of(self.model), self.accelerator.autocast():
            check_policy(self.model, self.reference, initial_N)
            if self.args.disable_dropout:
                check_training_mode(self.model)
            head = exact_head(self.model, fused_log_probs, partial(own_head, temperature=self.temperature))
            return head, padded_pass(self.model, head)[1].size(-1)

    def next_micro_batch(self, rows: list[dict[str, Any]]) -> Batch:
        """The next micro-batch, of a new rollout where the last one has been used for num_ppo_epochs epochs."""
        if not self.model.training:
            return self.rollout(rows)
        if self.args.replay_batch and not self._replay_prepared:
            self.prepare_replay()
            self._replay_prepared = True
        per_epoch, position = self.args.steps_per_generation, self.position
        if self.iteration < 0:
            return {}
        if position == 0:
            with timed(self, "rollout"):
                self.batch = self.rollout(rows)
            self._rollout_seconds = self.metrics["timing/rollout"][-1]
        if position % per_epoch == 0:
            seed = self.seed_of("epoch", position // per_epoch)
            micro_batch = self.args.per_device_train_batch_size
            self._plan = plan_epoch(self.batch, self.args.num_mini_batches, micro_batch, seed)
        return select_rows(self.batch, self._plan[position % per_epoch])

    @property
    def position(self) -> int:
        """Micro-batches of this iteration before the current one."""
        return self.micro_step % (self.args.steps_per_generation * self.args.num_ppo_epochs)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """The losses of a micro-batch, divided by the micro-batches of its optimizer step."""
        loss = torch.zeros((), device=self.accelerator.device, requires_grad=True)  # where both parts are empty
        if batch:
            loss = loss + self.fresh_loss(model, batch)
        if self.args.replay_batch:
            loss = loss + self.replay_loss(model, self.position)
        return loss / self.current_gradient_accumulation_steps

    def fresh_loss(self, model: Any, batch: Batch) -> Tensor:
        """The clipped policy loss of responses of the last rollout."""
        with self.accelerator.autocast():
            logp_BT, entropy_BT, _ = response_log_probs(model, batch, self.head)
        loss, sums = policy_loss(
            logp_BT,
            batch["old_logp"],
            batch["advantages"],
            batch["mask"],
            cliprange=self.args.cliprange,
            max_length=self.max_completion_length,
        )
        entropy = (entropy_BT * batch["mask"]).sum().detach()
        log_update(self, loss, self.sum_over_processes(torch.stack([*sums, entropy])))
        return loss

    def replay_loss(self, model: Any, position: int) -> Tensor:
        """The regression on stored responses; divided by the same constant length as the policy loss."""
        batch = self.replayed(position)
        loss = torch.zeros((), device=self.accelerator.device)
        if batch:
            with self.accelerator.autocast():
                logp_BT, _, _ = response_log_probs(model, batch, self.head)
            log_ratio_B = (logp_BT * batch["mask"]).sum(dim=1) - batch["ref_logp"]
            loss = batch["share"] * variance_loss(log_ratio_B, batch["reward"], batch["group"], self.args.kl_coef)
        self.metrics["loss/replay_avg"].append(self.accelerator.reduce(loss.detach(), reduction="mean").item())
        return self.args.replay_coef * loss / self.max_completion_length

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch, after a new rollout where one is due; timing/update leaves the rollout out."""
        with timed(self, "update"):
            self._rollout_seconds = 0.0
            loss = super().training_step(model, inputs, num_items_in_batch)
        self.metrics["timing/update"][-1] -= self._rollout_seconds
        self.metrics["memory/peak_gb"].append(peak_gb(self.accelerator.device))
        return loss

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, None, None]:
        """The evaluation loss is -(E[R] - kl_coef * KL), which training minimises."""
        objective = self.metrics["objective/rlhf_reward"]
        before = len(objective)
        self.next_micro_batch(inputs)
        return -torch.tensor(objective[before:]).mean().to(self.accelerator.device), None, None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """That of the settings for the iterations with a rollout; the warm start has its own, see `decay_first`."""
        if self.lr_scheduler is None:
            steps = self.begun.warm_start * self.args.steps_per_iteration
            super().create_scheduler(num_training_steps - steps, optimizer)
            if steps and isinstance(self.lr_scheduler, LambdaLR):
                rate = self.args.warm_start_learning_rate or self.args.learning_rate
                decay_first(self.lr_scheduler, steps, rate / self.args.learning_rate)
        return self.lr_scheduler

    def prompt_sampler(self) -> PromptSampler:
        """The prompts of every iteration."""
        return PromptSampler(
            prompts=len(self.train_dataset),
            per_iteration=prompts_per_iteration(self.args),
            num_generations=self.args.num_generations,
            repeats=self.args.steps_per_generation * self.args.num_ppo_epochs,
            iterations=self.args.max_steps // self.args.steps_per_iteration,
            seed=self.args.seed,
            done=self.begun.iterations,
            used=self.begun.prompts,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, with the number of responses trained on so far as `episodes`."""
        logs["episodes"] = self.progress.episodes
        super().log(logs, start_time)
