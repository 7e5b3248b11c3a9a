"""Settings for a command: conf/ with the overrides of the command line."""

from collections.abc import Callable, Sequence
from typing import Any

from mapft.commands.reporting import report
from mapft.config import Config
from mapft.config.compose import compose, to_config
from mapft.training.modes import TRAINERS


def with_config(overrides: Sequence[str], job: Callable[[Config], Any]) -> None:
    """Compose conf/config.yaml and call job(config), once or for each job of a sweep."""
    compose("config", overrides, TRAINERS, lambda settings: job(to_config(settings)), report)


def with_settings(name: str, overrides: Sequence[str], job: Callable[[Any], Any]) -> None:
    """Compose another file of conf/ and call job with Hydra's settings object."""
    compose(name, overrides, TRAINERS, job, report)
