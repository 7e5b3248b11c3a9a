"""How many responses the passes of a run have, where the settings leave it open."""

from dataclasses import dataclass, replace

from mapft.config.config import Config


@dataclass(frozen=True)
class Batches:
    """Responses in one pass of training (micro_batch), of log-probabilities, and of generation.

    checkpointing: whether the backward pass recomputes the layers.
    """

    micro_batch: int
    checkpointing: bool
    log_probs: int
    generation: int

    def applied_to(self, config: Config) -> Config:
        """The settings, with these batches for those that are null."""
        trainer, sampling = config.trainer, config.sampling
        checkpointing = trainer.gradient_checkpointing
        trainer = replace(
            trainer,
            micro_batch_size=trainer.micro_batch_size or self.micro_batch,
            gradient_checkpointing=self.checkpointing if checkpointing is None else checkpointing,
            local_rollout_forward_batch_size=trainer.local_rollout_forward_batch_size or self.log_probs,
        )
        sampling = replace(sampling, micro_batch_size=sampling.micro_batch_size or self.generation)
        return replace(config, trainer=trainer, sampling=sampling)

    def sentence(self, config: Config) -> str:
        """The batches in words."""
        checkpointing = "with" if self.checkpointing else "without"
        return (
            f"Responses at a time: {self.micro_batch} in training (of {config.trainer.rows_per_step} in an optimizer "
            f"step), {checkpointing} gradient checkpointing; {self.log_probs} for log-probabilities; {self.generation} "
            "in generation."
        )
