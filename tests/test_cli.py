"""The command line. Truth: exit codes, one sentence on stderr, and what is on disk."""

import logging
import subprocess
import sys
from io import StringIO

import pytest

from mapft.cli import ALL_COMMANDS, main
from tests import worlds
from tests.worlds import own


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def test_help_and_import_do_not_load_torch():
    code = "import sys, mapft, mapft.cli; mapft.cli.main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: mapft COMMAND" in done.stdout
    assert all(f"  {name} " in done.stdout for name in ALL_COMMANDS)


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_every_command_explains_itself_before_any_work(command):
    """--help prints the usage and imports neither torch nor Hydra; an unknown option is refused as early."""
    code = (
        "import sys; from mapft.cli import main; code = main(sys.argv[1:]);"
        "print('heavy:', [name for name in ('torch', 'transformers', 'hydra') if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: mapft {command}" in done.stdout
    assert "heavy: []" in done.stdout
    if command != "launch":  # whose words are accelerate's
        unknown = [sys.executable, "-c", code, command, "--no-such-option"]
        done = subprocess.run(unknown, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "--no-such-option" in done.stderr or "are required" in done.stderr
        assert "torch" not in done.stdout


def test_settings_compose_without_torch():
    code = "import sys, mapft.cli; mapft.cli.main(['run', '--cfg', 'job']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quantiles:" in done.stdout


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["palette.quantile.vowels=0.5"],
            "The setting palette.quantile is unknown; the settings here are name, quantiles",
        ),
        (["trainer.learning_rat=1"], "The setting trainer.learning_rat is unknown"),
        (["trainer.learning_rate=fast"], "Value 'fast' of type 'str' could not be converted to Float"),
        (
            ["refine.every=0"],
            "refine.every=0 is invalid; it must be at least 1, or null to keep the pilot's lambda.",
        ),
        (["evaluation.prompts=0"], "evaluation.prompts=0 is invalid"),
        (["trainer.save_total_limit=1"], "trainer.save_total_limit=1 is invalid; it must be at least 2"),
        (["trainer.critic_trunk=none"], "Invalid value 'none', expected one of [reference, policy]"),
        (["model.quantization=int9"], "Invalid value 'int9', expected one of [none, nf4, int8]"),
        (["model.adapter=/nowhere/adapter"], "model.adapter=/nowhere/adapter does not exist"),
        (
            ["sampling.temperature=0"],
            "sampling.temperature=0.0 is invalid; it must be at least 0.001",
        ),
        (
            ["+palette.quantiles.humour=0.6"],
            "has a target for humour, which has no reward (rewards: vowels, judge; palette:",
        ),
        (["palette=hhh_99"], "hhh_99"),
        (["mode=sequential", "mode.order=[judge]"], "mode.order=judge is invalid; it must name each of"),
        (
            ["mode.rounds=3"],
            "The setting mode.rounds is unknown; the settings here are name, reward_models, replay_from.",
        ),
        (["dual.estimator=best"], "best"),
        (["model.path=/no/such/model"], "model.path=/no/such/model does not exist"),
        (["+rewards.third=foo"], "rewards.third=foo is invalid; write its settings"),
        (["data.path=missing.jsonl"], "data.path=missing.jsonl does not exist"),
        (["sampling.max_new_tokens=60"], "longer than the 64 positions of the model"),
        (["sampling.top_p=2"], "sampling.top_p=2.0 is invalid"),
        (["trainer.critic_epochs=0"], "trainer.critic_epochs=0 is invalid"),
        (["rewards.judge.path=MODEL"], "has no weights for score.weight"),
        (["data.path=/no/such/prompts.jsonl"], "data.path=/no/such/prompts.jsonl does not exist"),
        (["data.column=text"], "has no column 'text' (it has question)"),
        (["rewards.vowels.target=tests.worlds:broken"], "'vowels' is nan for response 2"),
        (["rewards.judge.path=/no/judge"], "rewards.judge.path=/no/judge does not exist"),
        (["palette.quantiles.vowels=60"], "quantile 60.0 of value 'vowels' is outside [0, 1]"),
        (["data.path=EMPTY"], "0 distinct prompts"),
        (["data.max_prompt_tokens=0"], "data.max_prompt_tokens=0 is invalid"),
        (["data.max_prompt_tokens=2", "data.too_long=drop"], "so 0 remain and 2 are needed"),
        (
            ["+palette.relative_gain.judge=0.5"],
            "relative_gain is for scores in nats, not for judge (logit)",
        ),
        (["+palette.relative_gain_probability.judge=0.5"], "is for scores in probability, not for judge (logit)"),
        (
            ["+rewards.judge.output=probability", "+palette.absolute.judge=1.5"],
            "The target of judge is 1.5, but its score is between 0 and 1",
        ),
    ],
)
def test_invalid_input_is_one_sentence_and_writes_nothing(world, tmp_path, capfd, more, words):
    (tmp_path / "empty.jsonl").touch()
    more = [word.replace("EMPTY", str(tmp_path / "empty.jsonl")).replace("MODEL", str(world["model"])) for word in more]
    assert main(["run", *own(world, tmp_path, *more)]) == 2
    said = capfd.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("mapft:")]) == 1
    assert not list(tmp_path.rglob("adapter"))


def test_transformers_does_not_report_missing_weights_as_well(world, tmp_path):
    log = StringIO()
    logger, handler = logging.getLogger("transformers"), logging.StreamHandler(log)
    logger.addHandler(handler)
    try:
        assert main(["run", *own(world, tmp_path, f"rewards.judge.path={world['model']}")]) == 2
    finally:
        logger.removeHandler(handler)
    assert "LOAD REPORT" not in log.getvalue()


def test_unknown_command(capfd):
    assert main(["slove"]) == 2
    assert "use one of run, sample, score, solve, train, evaluate" in capfd.readouterr().err


def test_square_brackets_in_paths_are_text(world, tmp_path, capfd):
    """rich reads [/v1] as markup; a path that holds it is printed and used as it is."""
    folder = tmp_path / "[" / "v1]"
    folder.mkdir(parents=True)
    (folder / "policy").symlink_to(world["model"])
    output = tmp_path / "[red]runs[" / "red]"
    paths = [f'model.path="{folder / "policy"}"', f'output="{output}"']
    assert main(["solve", *own(world, tmp_path, *paths)]) == 0, capfd.readouterr().err
    assert f"Run folder: {output}" in capfd.readouterr().out
    assert main(["solve", *own(world, tmp_path, 'model.path="/no/[/such]/model"')]) == 2
    assert "model.path=/no/[/such]/model does not exist" in capfd.readouterr().err
