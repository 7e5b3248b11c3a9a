"""The commands of `mapft`: what each does, in one line, and the function that does it.

Importing this package imports nothing else of mapft, so that `mapft --help` answers at once.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command. function: "module:name", called with what its kind of command is given (below)."""

    help: str
    function: str = ""


@dataclass(frozen=True)
class RunCommand(Command):
    """A command on one run, given by Hydra overrides: the stages up to `last`, then function(run), if there is one.

    json_function: instead of `function` with --json, where the command has that option. check: "module:name", called
    with the run before the first stage. one_process: the command trains or scores by itself after the stages.
    """

    last: str = ""
    json_function: str = ""
    check: str = ""
    one_process: bool = False


TRAINABLE = "mapft.pipeline.train:check"

RUN_COMMANDS: dict[str, RunCommand] = {
    "run": RunCommand(
        "sample -> score -> solve -> train -> evaluate, and the closing table", last="evaluate", check=TRAINABLE
    ),
    "sample": RunCommand("K responses of the base policy to every pilot prompt", last="sample"),
    "score": RunCommand("scores of the samples under every value", last="score"),
    "solve": RunCommand(
        "lambda for the palette, or why it is infeasible",
        "mapft.commands.solution:print_solution",
        "solve",
        "mapft.commands.solution:print_solution_json",
    ),
    "train": RunCommand("LoRA PPO towards p_lam", last="train", check=TRAINABLE),
    "evaluate": RunCommand(
        "realized levels on held-out prompts, figures, report.html", last="evaluate", check=TRAINABLE
    ),
    "decode": RunCommand(
        "aligned responses without training: one of n candidates per prompt", "mapft.commands.decode:decode", "solve"
    ),
    "compare": RunCommand(
        "other methods with the same budget, on the same prompts",
        "mapft.commands.compare:compare",
        "solve",
        check=TRAINABLE,
        one_process=True,
    ),
    "export": RunCommand(
        "the tuned model in one piece, and model cards",
        "mapft.commands.export:export",
        "evaluate",
        check="mapft.commands.export:check",
    ),
}

# Given the settings of a run; what the function returns is printed.
SETTINGS_COMMANDS: dict[str, Command] = {
    "plan": Command(
        "memory of each device before anything is loaded, and what would make it fit", "mapft.commands.plan:plan"
    ),
    "dashboard": Command(
        "the W&B page of the runs, pushed or saved as JSON", "mapft.tracking.dashboard:save_dashboard"
    ),
}

# Given a parser and, later, its arguments: module.add_arguments(parser), module.main(arguments) -> exit code.
OTHER_COMMANDS: dict[str, Command] = {
    "settings": Command("every setting with its meaning, default, range and unit", "mapft.commands.settings"),
    "metrics": Command("the meaning of every number in logs.jsonl", "mapft.commands.metrics"),
    "doctor": Command("what this machine has for a run, and what is missing", "mapft.commands.doctor"),
    "launch": Command("run on several devices with accelerate", "mapft.commands.launch"),
    "pareto": Command("the runs of a sweep in one table and figure", "mapft.commands.pareto"),
    "ui": Command("the palette as a local web page", "mapft.commands.ui"),
    "serve-rewards": Command("scores for policies on another machine", "mapft.commands.serve_rewards"),
}
