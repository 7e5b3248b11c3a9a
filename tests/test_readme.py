"""README: its commands compose, its Python runs, its links lead somewhere. Truth: the program and the files."""

import re
import shlex
from pathlib import Path

import pytest
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from mapft import cli
from mapft.launching import LAUNCHERS, command
from tests import worlds

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text("utf-8")
ALONE = {"ui": 1, "pareto": 1, "doctor": 0}  # commands without settings: how many words follow


def commands() -> list[list[str]]:
    """The words of every command of ours in an indented block; what stands behind # or ... is left out."""
    lines = re.sub(r"\\\n\s+", " ", TEXT).splitlines()
    found = [line.strip() for line in lines if re.match(r"    (mapft|accelerate launch) \S", line)]
    return [[word for word in shlex.split(line, comments=True) if not word.endswith("...")] for line in found]


def settings(words: list[str]) -> list[str]:
    """One job of a sweep."""
    return [re.sub(r"^palette=(\w+),.*", r"palette=\1", word) for word in words if word != "-m"]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_compose(words, monkeypatch, capfd):
    made = []
    monkeypatch.setattr(cli, "_execute", lambda given, *_: made.append(cli._config(given)))
    if words[0] == "accelerate":
        file, overrides = words[words.index("--config_file") + 1 :][:1] if "--config_file" in words else [], words
        assert all((ROOT / path).exists() for path in file)
        words = ["mapft", "run", *overrides[overrides.index("mapft.train") + 1 :]]
    name, rest = words[1], words[2:]
    if name == "launch":
        _, environment = command(rest)
        assert rest[0] in LAUNCHERS
        assert environment
        name, rest = "run", rest[rest.index("--") + 1 :]
    if name in ALONE:
        assert len(rest) == ALONE[name]
        return
    if name in cli.COMMANDS:
        assert cli.main([name, *settings(rest)]) == 0, capfd.readouterr().err
        assert len(made) == 1
    else:
        assert cli.main([name, *settings(rest), "--cfg", "job"]) == 0, capfd.readouterr().err


def test_there_are_commands():
    assert len(commands()) > 15


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL), ids=lambda block: block.split("\n")[0]
)
@pytest.mark.filterwarnings("ignore")
def test_python_runs(block, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{n // 4},{n % 4 + n % 3},{(n * 7) % 5}\n" for n in range(64))
    (tmp_path / "scores.csv").write_text("prompt_id,humor,harmless\n" + rows)
    tokenizer = AutoTokenizer.from_pretrained(world["model"])
    tokenizer.pad_token = tokenizer.eos_token
    given = {
        "model": AutoModelForCausalLM.from_pretrained(world["model"]),
        "tokenizer": tokenizer,
        "reward_funcs": [worlds.vowels],
        "dataset": Dataset.from_dict({"prompt": worlds.PROMPTS[:4]}),
        "lora": LoraConfig(task_type="CAUSAL_LM"),
    }
    given["model"].generation_config.update(do_sample=True, max_length=None)
    block = block.replace("/my/polite-classifier", str(world["judge"]))
    block = block.replace(
        "kl_coef=1.0)", "kl_coef=1.0, use_cpu=True, bf16=False, report_to=[], max_completion_length=8)"
    )
    exec(block, given)


def test_links_lead_somewhere():
    local = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("http")]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []
