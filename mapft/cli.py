"""The command line: a stage, then Hydra overrides. The only room that knows Hydra; nothing here imports torch."""

import dataclasses
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mapft import __version__
from mapft.errors import UserError, unwritable
from mapft.glossary import METRICS
from mapft.masking import masked_addresses, masked_command

if TYPE_CHECKING:
    from mapft.config import Config

COMMANDS = {
    "run": ("evaluate", "sample -> score -> solve -> train -> evaluate, and the closing table"),
    "sample": ("sample", "draw K responses of the base policy to every pilot prompt"),
    "score": ("score", "score them under every value"),
    "solve": ("solve", "solve lambda for the palette, or say why there is none"),
    "train": ("train", "move the policy there by LoRA PPO"),
    "evaluate": ("evaluate", "realized levels on held-out prompts, pictures, report.html"),
    "decode": ("decode", "aligned responses without training: n candidates of the base policy, one returned"),
    "compare": ("compare", "the same budget spent on other methods, judged on the same prompts"),
    "export": ("export", "the aligned model in one piece, and model cards"),
}

SETTINGS_ALONE = {
    "plan": ("mapft.planning:plan", "memory of each GPU before anything is loaded, and what would make it fit"),
    "dashboard": ("mapft.tracking.dashboard:save_dashboard", "the W&B page of the runs, pushed or kept as JSON"),
}

SERVED = ("rewards", "host", "port", "model")  # settings of serve-rewards
OTHERS = ("metrics", "doctor", "launch", "pareto", "ui", "serve-rewards")  # the commands that take other words
SAID = "Said by the job of the sweep that it ended."

USAGE = """mapft {version}: fine-tune a language model to the level you ask of each human value.

usage: mapft COMMAND [overrides...] [--debug] [--json]

{commands}

{settings_alone}
    metrics    what every number in logs.jsonl is
    doctor     what this machine has for a run, and what each missing part would add
    launch NAME [--processes N] [--precision P] -- [overrides...]    run on several devices: {launchers}
    pareto FOLDER    the runs of a sweep in one table, csv and picture, with the theoretical front
    ui [RUN_OR_SCORES] [--host H] [--port P]    the palette as a local web page; without scores, the playground's
    serve-rewards [rewards=[...]] [host=...] [port=...]    scores for policies on another machine (kind: remote)

Every command of the first group does what is missing before it and keeps what is there. Overrides are Hydra's:
    mapft run                                           the embedded playground
    mapft run palette=hhh_60 seed=1
    mapft run -m palette=hhh_50,hhh_60,hhh_70           a sweep
    mapft run experiment=own model.path=/my/model data.path=prompts.jsonl ...
    mapft run --cfg job                                 show the settings and stop
    mapft run --help                                    the groups to choose from
--debug shows the traceback behind an error; --json makes `mapft solve` print for a machine.
Exit code: 0 done, 2 your input, 1 our fault."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        from mapft.launching import LAUNCHERS

        lists = {"commands": _listed(COMMANDS), "settings_alone": _listed(SETTINGS_ALONE)}
        print(USAGE.format(version=__version__, launchers=", ".join(LAUNCHERS), **lists))
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    command, *overrides = words
    debug, as_json = "--debug" in overrides, "--json" in overrides
    try:
        settings = [word for word in overrides if word not in ("--debug", "--json")]
        if as_json and command not in ("solve", "launch"):
            raise UserError(f"--json is for mapft solve; mapft {command} prints for a reader.")
        if command in ("metrics", "doctor") and settings:
            raise UserError(f"mapft {command} takes no words, and was given {' '.join(settings)}; leave them out.")
        if command == "metrics":
            width = max(map(len, METRICS))
            print("\n".join(f"{name:<{width}}  {what}" for name, what in METRICS.items()))
        elif command == "launch":
            from mapft.launching import launch

            return launch(overrides)
        elif command == "pareto":
            from mapft.evaluation.sweep import pareto

            print(pareto(settings))
        elif command == "doctor":
            from mapft.doctor import doctor

            return doctor()
        elif command == "ui":
            from mapft.ui.service import serve

            if not settings or settings[0].startswith("--"):
                _with_hydra("config", [], lambda given: settings.insert(0, _scored(given)))
            serve(settings)
        elif command == "serve-rewards":
            _with_hydra("serve", settings, _serve)
        elif command in SETTINGS_ALONE:
            module, function = SETTINGS_ALONE[command][0].split(":")
            _with_hydra(
                "config", settings, lambda given: print(getattr(import_module(module), function)(_config(given)))
            )
        elif command in COMMANDS:
            stage = COMMANDS[command][0]
            said = shlex.join(["mapft", command, *map(masked_command, settings)])
            _with_hydra("config", settings, lambda config: _execute(config, stage, as_json, said))
        else:
            known = ", ".join([*COMMANDS, *SETTINGS_ALONE, *OTHERS])
            raise UserError(f"There is no command {command!r}; use one of {known}.")
    except KeyboardInterrupt:
        print("Stopped; the same command continues where it was.", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            print(masked_addresses(traceback.format_exc()), file=sys.stderr)
        if SAID in getattr(error, "__notes__", ()):
            return 2 if isinstance(error, UserError) else 1
        return _report(error)
    return 0


def _listed(commands: Mapping[str, tuple[str, str]]) -> str:
    return "\n".join(f"    {name:<10} {what}" for name, (_, what) in commands.items())


def is_sweep(overrides: Sequence[str]) -> bool:
    """Whether Hydra is asked for several jobs."""
    return any(word in ("-m", "--multirun") for word in overrides)


def _report(error: Exception, job: str = "") -> int:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    no_room = "" if isinstance(error, UserError) else unwritable(error)
    mine = not no_room and not isinstance(error, UserError | HydraException | OmegaConfBaseException)
    sentence = masked_addresses(no_room or _sentence(_root_cause(error)))
    whose = f"{job}: " if job else ""
    print(f"mapft: {whose}{f'{type(error).__name__}: ' if mine else ''}{sentence}", file=sys.stderr)
    if mine:
        print("mapft: this is a fault of ours; --debug shows where.", file=sys.stderr)
    return 1 if mine else 2


def _sentence(error: BaseException) -> str:
    """The message on one line, with the name of the setting and what could stand there."""
    from hydra.errors import MissingConfigException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_such_file(error.missing_cfg_file)
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        if dataclasses.is_dataclass(error.object_type):
            return _no_such(str(error.full_key), [field.name for field in dataclasses.fields(error.object_type)])
        return f"There is no {error.full_key} yet; correct the name, or write +{error.full_key}=... to add it."
    message = str(error)
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {message.splitlines()[0]}; `mapft run --cfg job` shows what stands there."
    return " ".join(message.split())


def _no_such_file(missing: str) -> str:
    from mapft.paths import shipped

    group = shipped("conf") / Path(missing).parent
    known = sorted(str(path.relative_to(group).with_suffix("")) for path in group.rglob("*.yaml"))
    return f"There is no {missing}; there are {', '.join(known) or 'no files in that group'}."


def _root_cause(error: BaseException) -> BaseException:
    """The most specific message: Hydra wraps OmegaConf's, which wraps ours."""
    while not isinstance(error, UserError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _config(settings: Any) -> "Config":
    from omegaconf import OmegaConf

    from mapft.config import Config

    _refuse_unknown(settings)
    config = OmegaConf.to_object(settings)
    assert isinstance(config, Config)
    return config


def _refuse_unknown(settings: Any) -> None:
    """Hydra lets + add keys that no dataclass has."""
    from omegaconf import DictConfig, OmegaConf

    kind, where = OmegaConf.get_type(settings), settings._get_full_key(None)
    for name in settings:
        if dataclasses.is_dataclass(kind) and name not in (known := [f.name for f in dataclasses.fields(kind)]):
            raise UserError(_no_such(f"{where}.{name}".lstrip("."), known))
        if not OmegaConf.is_missing(settings, name) and isinstance(settings[name], DictConfig):
            _refuse_unknown(settings[name])


def _no_such(name: str, known: Sequence[str]) -> str:
    return f"There is no setting {name}; the settings here are {', '.join(known)}."


def _execute(settings: Any, stage: str, as_json: bool, command: str) -> float | None:
    from mapft.closing import execute

    return execute(_config(settings), stage, as_json, command)


def _scored(settings: Any) -> str:
    """The folder of a run whose scores are there."""
    from mapft.stages import Run

    run = Run(_config(settings))
    with run.alone():
        run.open("mapft score")
        run.score()
    return str(run.folder)


def _serve(settings: Any) -> None:
    from omegaconf import OmegaConf

    from mapft.rewards import parse
    from mapft.rewards.server import RewardServer

    unknown = [name for name in settings if name not in SERVED]
    if unknown:
        raise UserError(_no_such(unknown[0], SERVED))
    rewards: Any = OmegaConf.to_container(settings.get("rewards") or OmegaConf.create(), resolve=True)
    if not rewards:
        raise UserError("mapft serve-rewards was given no rewards; name some, for example rewards=[helpful,harmless].")
    if not isinstance(settings.port, int) or not 0 <= settings.port < 2**16:
        raise UserError(f"port={settings.port} is no port; give a number from 1 to 65535, or 0 for any free one.")
    with RewardServer(parse(rewards), str(settings.host), settings.port) as server:
        host, port = server.server_address[:2]
        print(f"Serving {', '.join(rewards)} at http://{host!s}:{port}/score/NAME", flush=True)
        server.serve_forever()


def _refuse_words(overrides: Sequence[str]) -> None:
    """What Hydra would take for something else, or answer in its own terms."""
    from mapft.paths import shipped

    groups = {path.name for path in shipped("conf").iterdir() if path.is_dir()}
    for word in overrides:
        name, _, given = word.partition("=")
        if word.startswith("="):
            raise UserError(f"{word} names no setting; write name=value.")
        if "=" in word and not given:
            raise UserError(f"{word} gives nothing; leave it out, or write {name}=null where a setting may be empty.")
        group = name.lstrip("+")
        if given == "null" and group in groups:
            raise UserError(f"{word} leaves the settings of {group} without a file; name one of conf/{group}.")


def _with_hydra(config_name: str, overrides: list[str], do: Callable[[Any], Any]) -> None:
    import hydra
    import hydra.core.hydra_config
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from mapft.config import MODES, Config, fingerprint
    from mapft.launching import claim_gpu, gpus
    from mapft.paths import shipped

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to `main` as they are
    OmegaConf.register_new_resolver("gpus", lambda: max(gpus(), 1), replace=True)
    if is_sweep(overrides) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("A sweep (-m) runs its jobs from one process; launch each palette with mapft launch instead.")
    sweep = f"sweep-{fingerprint(overrides)}" if is_sweep(overrides) else ""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, mode in MODES.items():
        store.store(group="mode", name=f"{name}_schema", node=mode)
    _refuse_words(overrides)
    failures: list[BaseException] = []

    def job(settings: Any) -> Any:
        sys.path.insert(0, str(Path.cwd()))  # functions named by rewards.*.target may lie beside the data
        sys.argv = ["mapft", *map(masked_command, overrides)]  # W&B keeps the words of the command
        try:
            if sweep:
                running = hydra.core.hydra_config.HydraConfig.get()
                claim_gpu(running.launcher._target_)
                (Path(running.sweep.dir) / "multirun.yaml").unlink(missing_ok=True)  # it holds the words as they are
                settings.tracking.group = settings.tracking.group or sweep
            return do(settings)
        except Exception as error:
            if sweep:  # the other jobs go on; Hydra raises the first error when all are done
                _report(error, " ".join(map(masked_command, running.overrides.task)))
                error.add_note(SAID)
                raise
            failures.append(error)

    before, sys.argv = sys.argv, ["mapft", *overrides]
    try:
        hydra.main(config_path=str(shipped("conf")), config_name=config_name, version_base="1.3")(job)()
    finally:
        sys.argv = before
    if failures:
        raise failures[0]


if __name__ == "__main__":
    sys.exit(main())
