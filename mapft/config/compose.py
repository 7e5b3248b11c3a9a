"""Composing settings with Hydra: conf/, the dataclasses as its schema, and overrides from the command line.

This file, sweep_callback and the command line are all that knows Hydra; everything else receives plain dataclasses.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mapft.config.config import Config
from mapft.config.identity import fingerprint
from mapft.config.mode import ModeConfig
from mapft.utils.errors import UserError
from mapft.utils.paths import shipped
from mapft.utils.redact import redact_command

REPORTED = "reported by the job of the sweep"  # note on an error that was printed when its job failed


def compose(
    name: str,
    overrides: Sequence[str],
    modes: Mapping[str, type[ModeConfig]],
    job: Callable[[Any], Any],
    on_failure: Callable[[BaseException, str], Any],
) -> None:
    """Run job(settings) once, or once for each job of a sweep (-m).

    name: of a file in conf/. modes: the schemas of group `mode`. on_failure: told the error of a job that failed while
    the other jobs of its sweep continue, and the overrides that it does not share with them. Raises what the job
    raises; in a sweep, the first error.
    """
    import hydra
    import hydra.core.hydra_config
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from mapft.utils.gpus import claim_gpu, visible_gpus

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach the caller as they are
    OmegaConf.register_new_resolver("gpus", lambda: max(visible_gpus(), 1), replace=True)
    sweep = f"sweep-{fingerprint(list(overrides))}" if is_sweep(overrides) else ""
    if sweep and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("A sweep (-m) runs its jobs from one process; launch each palette with mapft launch instead.")
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for mode, schema in modes.items():
        store.store(group="mode", name=f"{mode}_schema", node=schema)
    _check_words(overrides)
    failures: list[BaseException] = []

    def one_job(settings: Any) -> Any:
        sys.path.insert(0, str(Path.cwd()))  # functions named by rewards.*.target may be next to the data
        sys.argv = ["mapft", *map(redact_command, overrides)]  # W&B records the command
        try:
            if sweep:
                running = hydra.core.hydra_config.HydraConfig.get()
                claim_gpu(running.launcher._target_)
                (Path(running.sweep.dir) / "multirun.yaml").unlink(missing_ok=True)  # it holds secrets of overrides
                settings.tracking.group = settings.tracking.group or sweep
            return job(settings)
        except Exception as error:
            if sweep:  # the other jobs continue; Hydra raises the first error when all have ended
                on_failure(error, " ".join(map(redact_command, _swept(running.overrides.task, overrides))))
                error.add_note(REPORTED)
                raise
            failures.append(error)

    before, sys.argv = sys.argv, ["mapft", *overrides]
    try:
        hydra.main(config_path=str(shipped("conf")), config_name=name, version_base="1.3")(one_job)()
    finally:
        sys.argv = before
    if failures:
        raise failures[0]


def _swept(job: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Of a job's overrides, those that the command does not set to one value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    given = OverridesParser.create().parse_overrides([word for word in overrides if not word.startswith("-")])
    fixed = {override.get_key_element() for override in given if not override.is_sweep_override()}
    return [word for word in job if word.partition("=")[0] not in fixed]


def to_config(settings: Any) -> Config:
    """Composed settings as dataclasses; UserError for a key that no dataclass has."""
    from omegaconf import OmegaConf

    _refuse_unknown(settings)
    config = OmegaConf.to_object(settings)
    assert isinstance(config, Config)
    return config


def is_sweep(overrides: Sequence[str]) -> bool:
    """Whether Hydra is asked for several jobs."""
    return any(word in ("-m", "--multirun") for word in overrides)


def unknown_setting(name: str, known: Sequence[str]) -> str:
    """The message for a setting that does not exist."""
    return f"The setting {name} is unknown; the settings here are {', '.join(known)}."


def describe_error(error: BaseException) -> str:
    """The most specific message of an error on one line, with the name of the setting and what it accepts."""
    from hydra.errors import MissingConfigException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

    while not isinstance(error, UserError) and error.__cause__ is not None:  # Hydra wraps OmegaConf's, which wraps ours
        error = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_file(error.missing_cfg_file)
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        if dataclasses.is_dataclass(error.object_type):
            known = [field.name for field in dataclasses.fields(error.object_type)]
            return unknown_setting(str(error.full_key), known)
        return f"The setting {error.full_key} is missing; correct the name, or write +{error.full_key}=... to add it."
    message, group = str(error), str(getattr(error, "full_key", "")).partition(".")[0]
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"{error.full_key} is missing; give {error.full_key}=..., see `mapft settings {group}`."
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {message.splitlines()[0]}; see `mapft settings {group}`."
    return " ".join(message.split())


def is_composition_error(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf refused the settings."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    return isinstance(error, HydraException | OmegaConfBaseException)


def _unknown_file(missing: str) -> str:
    group = shipped("conf") / Path(missing).parent
    known = sorted(str(path.relative_to(group).with_suffix("")) for path in group.rglob("*.yaml"))
    return f"{missing} is unknown; use one of {', '.join(known) or 'no files in that group'}."


def _refuse_unknown(settings: Any) -> None:
    """Hydra lets + add keys that no dataclass has."""
    from omegaconf import DictConfig, OmegaConf

    kind, where = OmegaConf.get_type(settings), settings._get_full_key(None)
    for name in settings:
        if dataclasses.is_dataclass(kind) and name not in (known := [f.name for f in dataclasses.fields(kind)]):
            raise UserError(unknown_setting(f"{where}.{name}".lstrip("."), known))
        if not OmegaConf.is_missing(settings, name) and isinstance(settings[name], DictConfig):
            _refuse_unknown(settings[name])


def _check_words(overrides: Sequence[str]) -> None:
    """UserError for words that Hydra would misread, or answer in its own terms."""
    groups = {path.name for path in shipped("conf").iterdir() if path.is_dir()}
    for word in overrides:
        name, _, value = word.partition("=")
        if word.startswith("="):
            raise UserError(f"{word} has no setting's name; write name=value.")
        if "=" in word and not value:
            raise UserError(f"{word} has no value; leave it out, or write {name}=null where a setting may be empty.")
        group = name.lstrip("+")
        if value == "null" and group in groups:
            raise UserError(f"{word} leaves the group {group} without a file; choose one of conf/{group}.")
