"""The world is built once, completely, and reproducibly. Truth: the bytes on disk, and the output of processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from mapft.playground import build, locate
from mapft.playground.builder import _write_prompts
from mapft.utils.errors import UserError

BUILD_AND_PRINT = """
import mapft.playground.cache as cache
real = cache.build
def build(*args, **kwargs):
    print("building", flush=True)
    real(*args, **kwargs)
cache.build = build
print(cache.locate("policy", _size="tiny"))
"""
BUILD_AND_DIE = """
import os, signal
import mapft.playground.builder as builder, mapft.playground.cache as cache
builder._train_all = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cache.locate("policy", _size="tiny")
"""


def _python(code: str, folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "MAPFT_CACHE": str(folder)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


def _contents(world: Path) -> dict[str, bytes]:
    return {str(path.relative_to(world)): path.read_bytes() for path in sorted(world.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The tiny world after two processes located it at the same time, and what they printed."""
    folder = tmp_path_factory.mktemp("raced")
    racers = [_python(BUILD_AND_PRINT, folder) for _ in range(2)]
    printed = [line for racer in racers for line in racer.communicate()[0].splitlines()]
    (world,) = folder.glob("playground-*")
    return world, printed


def test_two_processes_at_once_build_once(raced: tuple[Path, list[str]]) -> None:
    world, printed = raced
    assert sorted(printed) == sorted(["building", *2 * [str(world / "policy")]])


def test_a_killed_build_is_not_used_and_the_next_one_is_identical(
    raced: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two builds, one of them after a killed build, have the same bytes and leave no other files."""
    killed = _python(BUILD_AND_DIE, tmp_path)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    (leftover,) = [path for path in tmp_path.iterdir() if (path / "world").exists()]
    assert (leftover / "world" / "policy" / "tokenizer.json").exists()

    monkeypatch.setenv("MAPFT_CACHE", str(tmp_path))
    world = locate("prompts", _size="tiny").parent
    assert not leftover.exists()
    assert _contents(world) == _contents(raced[0])


def test_the_folders_load_as_hugging_face_models(raced: tuple[Path, list[str]]) -> None:
    world, _ = raced
    assert len(AutoTokenizer.from_pretrained(world / "policy")) == 400
    assert AutoModelForCausalLM.from_pretrained(world / "policy").generation_config.eos_token_id == 2
    for value in ("humor", "helpful", "harmless"):
        config = AutoModelForSequenceClassification.from_pretrained(world / value).config
        assert config.num_labels == 1
        assert config.id2label == {0: value}
        assert len(AutoTokenizer.from_pretrained(world / value)) == 400


def test_the_prompt_file_holds_distinct_model_inputs_of_two_kinds(raced: tuple[Path, list[str]]) -> None:
    rows = [json.loads(line) for line in (raced[0] / "prompts.jsonl").read_text().splitlines()]
    assert len({row["prompt"] for row in rows}) == len(rows) >= 1500
    assert {row["kind"] for row in rows} == {"everyday", "dubious"}
    assert all(row["prompt"].startswith("User: ") and row["prompt"].endswith("\nAssistant:") for row in rows)
    # shuffled, so that any slice of the file is a fair mix
    assert 0.15 < sum(row["kind"] == "dubious" for row in rows[:500]) / 500 < 0.35


def test_an_unknown_part_is_one_sentence_that_lists_the_known_ones() -> None:
    with pytest.raises(
        UserError,
        match=r"of the playground is unknown; use one of policy, humor, helpful, harmless, prompts, requests\.$",
    ):
        locate("humour")


def test_the_requests_for_other_models_need_no_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same questions as those of the prompts, in the same order."""
    monkeypatch.setenv("MAPFT_CACHE", str(tmp_path))
    rows = [json.loads(line) for line in locate("requests").read_text("utf-8").splitlines()]
    assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl"]
    _write_prompts(tmp_path / "prompts.jsonl", 0)
    prompts = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text("utf-8").splitlines()]
    questions = [row["prompt"].removeprefix("User: ").removesuffix("\nAssistant:") for row in prompts]
    assert [row["prompt"] for row in rows] == [f"{question} Answer in one short sentence." for question in questions]
    assert [row["kind"] for row in rows] == [row["kind"] for row in prompts]


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already exists"):
        build(tmp_path)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mapft.playground.cache import cache_folder

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MAPFT_CACHE", raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "mapft"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mapft"
    monkeypatch.setenv("MAPFT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_a_failing_worker_reports_its_error(tmp_path: Path) -> None:
    from mapft.playground.builder import _train_one

    with pytest.raises(RuntimeError, match=r"humor model failed:\n(.|\n)*Error"):
        _train_one("humor", tmp_path / "no tokenizer here", 0, "tiny", lambda done: None)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, mapft.playground; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
