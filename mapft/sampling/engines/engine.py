"""What another program that generates responses must do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Proposal:
    """A response of an engine. ids: of its tokens, with EOS where it ended. logp: log mu(y|x) in nats."""

    ids: list[int]
    logp: float


class Engine(Protocol):
    """Generates responses of the base model, or of the base model with an adapter, at temperature 1."""

    def load(self, adapter: Path | None) -> str:
        """Generate with this adapter, a folder of PEFT's, from now on; None: with the base model alone.

        Returns what other processes of the same training give to `follow`.
        """

    def follow(self, loaded: str) -> None:
        """Generate with what another process has loaded."""

    def propose(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], eos_ids: Sequence[int], max_new_tokens: int
    ) -> list[Proposal]:
        """One response y ~ mu(.|x) to every prompt, each from its own seed; it ends with its first EOS or is full."""
