"""README files: commands compose, Python blocks run, links exist, numbers are those of the benchmarks.

Truth: the program, the files, and notebooks/figures/benchmarks.md.
"""

import argparse
import re
import shlex
from importlib import import_module
from itertools import dropwhile
from pathlib import Path

import pytest
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from mapft import cli
from mapft.commands import OTHER_COMMANDS, RUN_COMMANDS, SETTINGS_COMMANDS
from mapft.commands.launch import command_line
from mapft.commands.settings import all_groups
from tests import worlds

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BENCHMARKS = ROOT / "notebooks/figures/benchmarks.md"
TEXTS = [
    README,
    *(ROOT / folder / "README.md" for folder in ("conf", "launch", "notebooks")),
    *sorted((ROOT / "mapft").rglob("README.md")),
    ROOT / ".github/CONTRIBUTING.md",
]
MOST_LINES = 220


def blocks(language: str, paths: list[Path]) -> list[str]:
    """The fenced blocks in one language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [block for path in paths for block in fence.findall(path.read_text("utf-8"))]


def commands() -> list[list[str]]:
    """The words of every command, without comments, environment variables, and words that end in an ellipsis."""
    lines = [line for block in blocks("bash", TEXTS) for line in re.sub(r"\\\n\s+", " ", block).splitlines()]
    words = [[word for word in shlex.split(line, comments=True) if not word.endswith("...")] for line in lines]
    return [list(dropwhile(re.compile(r"[A-Z_]+=").match, each)) for each in words if each]


def one_job(overrides: list[str]) -> list[str]:
    """The overrides of the first job of a sweep."""
    first = [re.sub(r"^palette=(\w+),.*", r"palette=\1", word) for word in overrides if word != "-m"]
    return ["palette=hhh_70" if word.startswith("palette=glob(") else word for word in first]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_compose(words, monkeypatch, capfd):
    program, *rest = words
    if program == "pip":
        assert rest[0] == "install"
        return
    if program == "vllm":
        assert rest[0] == "serve"
        return
    if program.startswith("./"):
        assert (ROOT / program).stat().st_mode & 0o100, f"{program} is not executable"
        return
    if program == "accelerate":
        assert (ROOT / rest[rest.index("--config_file") + 1]).exists()
        rest = rest[rest.index("-m") + 1 :]
        assert rest.pop(0) == "mapft"
    else:
        assert program == "mapft"
    name, *rest = rest
    if name == "launch":
        launched, _ = command_line(rest)
        name, *rest = launched[launched.index("mapft") + 1 :]
    if name == "serve-rewards":
        assert cli.main([name, *rest, "--cfg", "job"]) == 0, capfd.readouterr().err
    elif name in OTHER_COMMANDS:
        parser = argparse.ArgumentParser(exit_on_error=False)
        import_module(OTHER_COMMANDS[name].function).add_arguments(parser)
        options = parser.parse_args(rest)
        assert name != "settings" or options.group in (None, *all_groups())
    else:
        assert name in RUN_COMMANDS | SETTINGS_COMMANDS
        configs = []
        monkeypatch.setattr("mapft.commands.execute.execute", lambda config, *_: configs.append(config))
        monkeypatch.setattr("mapft.commands.execute.load", lambda function: configs.append)
        assert cli.main([name, *one_job(rest)]) == 0, capfd.readouterr().err
        assert len(configs) == ("--cfg" not in rest)


def test_the_readme_shows_the_main_commands():
    shown = set(re.findall(r"mapft (\w+)", README.read_text("utf-8")))
    assert shown >= {"sample", "score", "solve", "train", "evaluate", "export", "compare", "ui", "doctor", "settings"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("block", blocks("python", TEXTS), ids=lambda block: block.split("\n")[0])
@pytest.mark.filterwarnings("ignore")
def test_python_runs(block, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{n // 4},{n % 4 + n % 3},{(n * 7) % 5}\n" for n in range(64))
    (tmp_path / "scores.csv").write_text("prompt_id,humor,harmless\n" + rows)
    tokenizer = AutoTokenizer.from_pretrained(world["model"])
    tokenizer.pad_token = tokenizer.eos_token
    names = {
        "model": AutoModelForCausalLM.from_pretrained(world["model"]),
        "tokenizer": tokenizer,
        "reward_funcs": [worlds.vowels],
        "dataset": Dataset.from_dict({"prompt": worlds.PROMPTS[:4]}),
        "lora": LoraConfig(task_type="CAUSAL_LM"),
    }
    names["model"].generation_config.update(do_sample=True, max_length=None)
    block = block.replace("/my/polite-classifier", str(world["judge"]))
    block = block.replace(
        "kl_coef=1.0)", "kl_coef=1.0, use_cpu=True, bf16=False, report_to=[], max_completion_length=8)"
    )
    exec(block, names)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_exist(path):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text("utf-8"))
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_files_that_contributing_names_exist():
    text = (ROOT / ".github/CONTRIBUTING.md").read_text("utf-8")
    paths = re.findall(r"`((?:mapft|conf|tests)/[\w/.]+)`", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists() and "NAME" not in path] == []


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= MOST_LINES


def speed() -> str:
    """The section of the README that quotes the benchmarks."""
    [section] = re.findall(r"^### Speed\n(.*?)^#", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert f"({BENCHMARKS.relative_to(ROOT)})" in section
    return section


def test_every_number_about_speed_is_in_the_benchmarks():
    number = re.compile(r"\d+\.\d+")
    assert len(number.findall(speed())) > 2
    assert set(number.findall(speed())) <= set(number.findall(BENCHMARKS.read_text("utf-8")))
