"""`mapft doctor`. Truth: this environment, and one that has been broken."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from mapft.cli import main
from mapft.commands import doctor


def test_it_reads_this_environment(capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("MAPFT_CACHE", str(tmp_path / "not" / "there" / "yet"))
    monkeypatch.setenv("HF_TOKEN", "planted-token-0451")
    monkeypatch.setenv("COLUMNS", "200")
    found = {each.subject: each for each in doctor.findings()}
    assert found["torch"].finding == version("torch")
    assert found["trl"].state == found["cache"].state == "ok"
    assert main(["doctor"]) == (2 if any(each.state == "wrong" for each in found.values()) else 0)
    printed = capfd.readouterr().out
    assert "planted-token-0451" not in printed
    assert all(name in printed for name in found)


def test_what_is_wrong_is_named_with_a_remedy(capfd, monkeypatch):
    monkeypatch.setenv("MAPFT_CACHE", "/proc/nowhere")
    real = version

    def broken(name: str) -> str:
        if name in ("peft", "tensorboard"):
            raise PackageNotFoundError(name)
        return "1.12.0" if name == "trl" else real(name)

    monkeypatch.setattr(doctor, "version", broken)
    found = {each.subject: each for each in doctor.findings()}
    assert (found["peft"].state, found["trl"].state, found["cache"].state) == ("wrong", "wrong", "wrong")
    assert "tested with <1.17,>=1.16" in found["trl"].remedy
    assert (found["tensorboard"].state, found["tensorboard"].remedy) == (
        "missing",
        "tracking=tensorboard: pip install 'mapft[tensorboard]'",
    )
    assert main(["doctor"]) == 2
    said = capfd.readouterr().out
    assert "A run would fail because of peft, trl, cache; see above." in said.replace("\n", " ")
    assert "pip install 'mapft[tensorboard]'" in said, "brackets are not markup"


def test_every_extra_is_explained():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - {"dev"}


@pytest.mark.parametrize(
    ("found", "wanted", "state"), [("2.13.0+cpu", ">=2.11,<2.14", "ok"), ("2.14.0", "<2.14", "wrong")]
)
def test_ranges(found, wanted, state):
    assert doctor._fits("torch", found, wanted).state == state
