"""Every private or undocumented member of TRL, transformers, PEFT and DeepSpeed that mapft uses, behind names of ours.

Nothing else in mapft imports one. tests/ppo/test_trl_contract.py runs each member and checks what it returns or does;
a weekly workflow runs that test against TRL's main branch. When it fails, this is the file to change.

Shapes: N response tokens, B responses of this process, S columns of a padded sequence, D features, F reward functions.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers.trainer
import trl.trainer.utils
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled as is_zero3_enabled
from transformers.trainer import SCHEDULER_NAME as SCHEDULER_FILE
from trl import DPOTrainer, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing as without_gradient_checkpointing
from trl.trainer.utils import add_fused_lm_head, is_async_callable, pad, use_adapter
from trl.trainer.utils import get_callable_name as function_name

__all__ = [
    "SCHEDULER_FILE",
    "STEP",
    "Generate",
    "Responses",
    "TRLSeam",
    "TokenDPOTrainer",
    "add_fused_lm_head",
    "begin_deepspeed_state",
    "deepspeed_state",
    "function_name",
    "fused_log_probs",
    "is_async_callable",
    "is_deepspeed",
    "is_zero3_enabled",
    "model_path",
    "narrow_head_tiles",
    "pad",
    "set_deepspeed_state",
    "use_adapter",
    "whole_weights_of",
    "without_deepspeed_loading",
    "without_gradient_checkpointing",
]

STEP = "step"  # Adam's count of steps in an optimizer's state
HEAD_TILE = 4096  # vocabulary entries

Generate = Callable[[Sequence[list[int]]], list[list[int]]]


@dataclass(frozen=True)
class Responses:
    """What TRL's generation returns. tool_mask: of a rollout_func's env_mask; extra: a rollout_func's other columns."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    completions: list[Any]
    log_probs: list[list[float]] | None = None
    tool_mask: list[list[int]] | None = None
    extra: dict[str, Any] | None = None


class TRLSeam(GRPOTrainer):
    """GRPOTrainer whose private methods call public hooks, which PPOTrainer defines."""

    _tokens: list[list[int]] | None = None
    _tag_names: ClassVar = ["trl", "ppo"]
    _name = "PPO"
    _paper: ClassVar = {"title": "Proximal Policy Optimization Algorithms", "id": "1707.06347"}

    # ------------------------------------------------------------------ hooks

    def rollout(self, rows: list[dict[str, Any]]) -> Any:
        """The batch that `loss` needs, from rows of the dataset."""
        raise NotImplementedError

    def next_micro_batch(self, rows: list[dict[str, Any]]) -> Any:
        """What one call of `loss` receives in training; the rollout of the rows in evaluation."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Any) -> Tensor:
        """The loss of a micro-batch."""
        raise NotImplementedError

    def prompt_sampler(self) -> Sampler[int]:
        """Row numbers of the training dataset in the order in which they are needed."""
        raise NotImplementedError

    def generate_tokens(
        self, prompt_ids: list[list[int]], generate: Generate
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Response ids, and log-probabilities where they are known; `generate` is TRL's generation of some prompts."""
        raise NotImplementedError

    def may_save(self) -> bool:
        """Whether a checkpoint can be written at this step."""
        raise NotImplementedError

    def checkpoint_saved(self, folder: Path) -> None:
        """Called on every process after a checkpoint was written."""

    def checkpoint_loaded(self, folder: Path) -> None:
        """Called on every process after optimizer and schedule were loaded."""

    @property
    def portable(self) -> bool:
        """Whether `save_optimizer` and `load_optimizer` replace the backend's own files."""
        return False

    def save_optimizer(self, folder: Path) -> None:
        """Write optimizer and schedule; called on every process."""
        raise NotImplementedError

    def load_optimizer(self, folder: Path) -> None:
        """Read what `save_optimizer` wrote."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what TRL and transformers call

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        return self.rollout(inputs)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        return self.next_micro_batch(generation_batch)

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        return self.loss(model, inputs)

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        return self.prompt_sampler()

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]:
        return (self._tokens, None, {}) if self._tokens is not None else super()._tokenize_prompts(prompts)

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        single_turn, training = super()._generate_single_turn, self.model.training
        try:
            return self.generate_tokens(prompt_ids, lambda part: single_turn(part, *args, **kwargs)[0])
        finally:
            self.model.train(training)  # continuous batching leaves it in training mode, also in an evaluation

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.may_save():
            super()._save_checkpoint(model, trial)
            self.checkpoint_saved(Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.portable:
            self.save_optimizer(Path(output_dir))
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        if self.portable:
            self.load_optimizer(Path(checkpoint))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
        self.checkpoint_loaded(Path(checkpoint))

    # ------------------------------------------------------------------ what our trainer calls

    def responses(self, prompts: list[Any], tokens: list[list[int]] | None = None) -> Responses:
        """Responses of the current policy, one per prompt. tokens: of the prompts; by default TRL renders them."""
        self._tokens = tokens
        prompt_ids, completion_ids, tool_mask, completions, log_probs, extra, *_ = self._generate(prompts)
        return Responses(prompt_ids, completion_ids, completions, log_probs, tool_mask, extra)

    def rewards_of_functions(
        self, rows: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids: list[list[int]]
    ) -> Tensor:
        """Rewards of the responses of all processes, a column for each reward function in order, (B * processes, F)."""
        return self._calculate_rewards(rows, prompts, completions, completion_ids)

    def load_weights(self, folder: str) -> None:
        """The weights of a checkpoint into the model."""
        self._load_from_checkpoint(folder)

    @property
    def text_tokenizer(self) -> Any:
        """The tokenizer, also inside a processor."""
        return self._tokenizer

    @property
    def micro_step(self) -> int:
        """Calls of training_step so far."""
        return self._step

    @property
    def metrics(self) -> dict[str, Any]:
        """{name: numbers} of training, or of a running evaluation; `log` writes their means and clears them."""
        return self._metrics["train" if self.model.training else "eval"]

    @property
    def rollout_columns(self) -> dict[str, Any]:
        """Columns of the last rollout: prompt, completion, advantages, rewards by function, extra by name."""
        return self._logs

    def take_function_metrics(self) -> tuple[dict[str, list[float]], dict[str, list[Any]]]:
        """Numbers and columns that reward functions of all processes logged since the last call."""
        return _gathered(self._pending_metrics), _gathered(self._pending_extra_logs)


def _gathered(pending: dict[str, list[Any]]) -> dict[str, list[Any]]:
    names = sorted(set(gather_object(list(pending))))
    columns = {name: gather_object(pending.get(name, [])) for name in names}
    pending.clear()
    return columns


# ---------------------------------------------------------------------- models


def fused_log_probs(
    model: nn.Module, causal: Any, inputs: dict[str, Tensor], labels_N: Tensor, states_BS: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """log p(label) (N,), entropy (N,) where the head computes it, and hidden states (N, D), detached.

    causal: the causal language model inside `model`. states_BS: where the state is that predicts each label. TRL's
    fused LM head receives those N states alone: no logits of prompt or padding, and never (B, T, V) logits.
    """
    states: list[Tensor] = []

    def select(module: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[states_BS][None]
        states.append(output.last_hidden_state[0].detach())
        return output

    handle = causal.base_model.register_forward_hook(select)
    try:
        with nullcontext() if labels_N.is_cuda else narrow_head_tiles():
            outputs = model(**inputs, shift_labels=labels_N[None], fused_lm_head=True)
    finally:
        handle.remove()
    return outputs.log_probs, outputs.entropy, states[0]


@contextmanager
def narrow_head_tiles() -> Iterator[None]:
    """Inside, TRL's fused LM head computes logits of HEAD_TILE vocabulary entries at a time.

    Without Triton it holds seven fp32 copies of a tile, and its own tiles of 32768 entries and 4096 tokens are .5 GB.
    """
    size = trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE
    trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE = HEAD_TILE
    try:
        yield
    finally:
        trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE = size


def model_path(model: Any) -> str:
    """The path or Hub name that a model was loaded from; empty for one built in memory."""
    return model.config._name_or_path


# ---------------------------------------------------------------------- DeepSpeed


@contextmanager
def whole_weights_of(model: nn.Module) -> Iterator[None]:
    """Inside, each process has all weights, also of a model that was loaded in shards under ZeRO-3."""
    if not is_zero3_enabled():
        yield
        return
    from deepspeed import zero

    with zero.GatheredParameters(list(model.parameters())):
        yield


@contextmanager
def without_deepspeed_loading() -> Iterator[None]:
    """Inside, transformers' trainer does not ask DeepSpeed to load a checkpoint."""
    load = transformers.trainer.deepspeed_load_checkpoint
    transformers.trainer.deepspeed_load_checkpoint = lambda *_, **__: None
    try:
        yield
    finally:
        transformers.trainer.deepspeed_load_checkpoint = load


class TokenDPOTrainer(DPOTrainer):
    """DPO on a dataset of token ids (prompt_ids, chosen_ids, rejected_ids), which TRL computes from texts otherwise."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


def is_deepspeed(optimizer: Any) -> bool:
    """Whether it is one of DeepSpeed's optimizers, which shard their state over the processes."""
    return type(optimizer).__module__.startswith("deepspeed.")


def deepspeed_state(optimizer: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Adam's complete state of one parameter; empty before the first step. Every process must take part."""
    from deepspeed.utils import safe_get_full_optimizer_state

    shards = [shard for shard in optimizer.optimizer.state.values() if STEP in shard]
    if not shards:
        return {}
    state = {key: safe_get_full_optimizer_state(parameter, key) for key in shards[0] if key != STEP}
    return state | {STEP: torch.as_tensor(shards[0][STEP]).float()}


def set_deepspeed_state(optimizer: Any, parameter: nn.Parameter, state: dict[str, Tensor]) -> None:
    """Write what `deepspeed_state` returned; call `begin_deepspeed_state` before."""
    from deepspeed.utils import safe_set_full_optimizer_state

    for key, tensor in state.items():
        if key != STEP:
            safe_set_full_optimizer_state(parameter, tensor, key)
    for shard in optimizer.optimizer.state.values():
        if STEP in state:
            shard[STEP] = state[STEP].clone()


def begin_deepspeed_state(optimizer: Any, keys: Iterable[str]) -> None:
    """Create the state that DeepSpeed (ZeRO-1, 2 or 3) creates at its first step, so that it can be written."""
    flat = getattr(optimizer, "single_partition_of_fp32_groups", None) or optimizer.fp32_partitioned_groups_flat
    for shard in flat:
        optimizer.optimizer.state[shard] = {
            key: torch.zeros(()) if key == STEP else torch.zeros_like(shard) for key in keys
        }
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        optimizer._lazy_init_hp_params_optimizer_state()
