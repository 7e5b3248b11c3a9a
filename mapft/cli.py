"""The command line: sub-commands, and one sentence for every error. Nothing here imports torch."""

import argparse
import shlex
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from mapft import __version__
from mapft.commands import OTHER_COMMANDS, RUN_COMMANDS, SETTINGS_COMMANDS
from mapft.commands.reporting import report
from mapft.utils.errors import UserError
from mapft.utils.redact import redact_command, redact_urls

ALL_COMMANDS = {**RUN_COMMANDS, **SETTINGS_COMMANDS, **OTHER_COMMANDS}
OVERRIDES = """
settings are given as Hydra overrides, name=value:
  mapft run palette=hhh_60 seed=1
  mapft run -m palette=hhh_50,hhh_60,hhh_70                a sweep
  mapft run experiment=own model.path=/my/model data.path=prompts.jsonl ...
mapft settings lists them; --cfg job prints the composed settings and stops.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit code: 0 done, 2 invalid input, 1 an internal error, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        print("Interrupted; repeat the command to continue.", file=sys.stderr)
        return 130
    except SystemExit as end:  # argparse has printed --help or a message
        return int(end.code or 0)
    except Exception as error:
        from mapft.config.compose import REPORTED

        if "--debug" in words:
            print(redact_urls(traceback.format_exc()), file=sys.stderr)
        if REPORTED in getattr(error, "__notes__", ()):
            return 2 if isinstance(error, UserError) else 1
        return report(error)


def _dispatch(words: list[str]) -> int:
    if words and not words[0].startswith("-") and words[0] not in ALL_COMMANDS:
        raise UserError(f"The command {words[0]!r} is unknown; use one of {', '.join(ALL_COMMANDS)}.")
    if not words or words[0] not in ALL_COMMANDS:
        _overview().parse_args(words or ["--help"])
        return 0
    name, *rest = words
    if name in OTHER_COMMANDS:
        command = import_module(OTHER_COMMANDS[name].function)
        parser = _parser(name, command.__doc__)
        command.add_arguments(parser)
        own = rest[: rest.index("--")] if "--" in rest else rest  # what follows belongs to the command that it starts
        options = parser.parse_args([*(word for word in own if word != "--debug"), *rest[len(own) :]])
        return int(command.main(options) or 0)
    parser = _parser(name, ALL_COMMANDS[name].help, OVERRIDES)
    if name in RUN_COMMANDS and RUN_COMMANDS[name].json_function:
        parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(json=False)
    options, overrides = _with_overrides(parser, rest)
    from mapft.commands.composed import with_config
    from mapft.commands.execute import execute, load

    if name in SETTINGS_COMMANDS:
        function = load(SETTINGS_COMMANDS[name].function)
        with_config(overrides, lambda config: print(function(config)))
        return 0
    command_line = shlex.join(["mapft", name, *map(redact_command, overrides)])
    with_config(overrides, lambda config: execute(config, RUN_COMMANDS[name], command_line, options.json))
    return 0


# ---------------------------------------------------------------------- parsers


class _Parser(argparse.ArgumentParser):
    """argparse's parser, whose messages are errors like all others."""

    def error(self, message: str) -> Any:
        """Raise the message."""
        raise UserError(f"{message}; see {self.prog} --help.")


def _parser(name: str, description: str | None, epilog: str = "") -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"mapft {name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="print the traceback behind an error")
    return parser


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, ALL_COMMANDS))
    groups = ("commands on a run", RUN_COMMANDS), ("on its settings", SETTINGS_COMMANDS), ("others", OTHER_COMMANDS)
    lines = ["mapft COMMAND --help explains a command."]
    for title, commands in groups:
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {command.help}" for name, command in commands.items())]
    parser = _Parser(
        prog="mapft",
        usage="mapft COMMAND [overrides ...]",
        description="Fine-tune a language model to a chosen level of each of several human values.",
        epilog="\n".join([*lines, "", "Every command on a run first does the stages before it that are not complete."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _with_overrides(parser: argparse.ArgumentParser, words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """(our options, words for Hydra); unknown options are refused before Hydra sees them."""
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings")
    parser.add_argument("-m", "--multirun", action="store_true", help="run a sweep over comma-separated values")
    parser.add_argument("--cfg", choices=("job", "hydra", "all"), help="print the composed settings and stop")
    parser.add_argument("--resolve", action="store_true", help="with --cfg: resolve references between settings")
    options, unknown = parser.parse_known_intermixed_args(words)
    if stray := [word for word in unknown if word.startswith("-")]:
        raise UserError(f"the option {stray[0]} is unknown; see {parser.prog} --help.")
    hydra = ["-m"] if options.multirun else []
    hydra += ["--cfg", options.cfg] if options.cfg else []
    hydra += ["--resolve"] if options.resolve else []
    return options, [*hydra, *options.overrides, *unknown]


if __name__ == "__main__":
    sys.exit(main())
