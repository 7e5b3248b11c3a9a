"""Functions as scores, and which code a configuration may name. Truth: text lengths; the folders of the test."""

import asyncio
import subprocess
import sys
import threading

import pytest

from mapft.rewards import parse
from mapft.rewards.function import TRUST_VARIABLE, is_trusted
from mapft.rewards.loader import RewardModels
from mapft.utils.errors import UserError


def score(response: str, **settings) -> float:
    return float(parse({"v": settings})["v"].load("v").score([""], [response])[0])


async def length_later(prompts, completions):
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]


class Scaled:
    """Instantiated with an argument, then called."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, prompts, completions):
        return [self.factor * len(text) for text in completions]


def shifted(prompts, completions, by):
    return [len(text) + by for text in completions]


def graded(prompts, completions, answer, *, level=0, factor=1.0, **columns):
    """As a TRL reward function: 1 at the answer, else the level, plus the number of other columns."""
    levels = [level] * len(answer) if level == 0 else level
    scores = zip(completions, answer, levels, strict=True)
    return [factor * (float(text == right) or grade) + len(columns) for text, right, grade in scores]


class Matches:
    """A class whose instances read a column."""

    def __init__(self, case):
        self.case = case

    def __call__(self, prompts, completions, answer):
        return [float(text == right) for text, right in zip(completions, answer, strict=True)]


def reads_by_key(prompts, completions, **columns):
    return columns["id"]


def no_scores(prompts, completions):
    return None


def two_columns(prompts, completions):
    return [[1.0, 2.0] for _ in completions]


def raises(prompts, completions):
    raise IndexError("list index out of range")


def ends(prompts, completions):
    sys.exit("the judge has no licence")


class Ending:
    def __init__(self):
        sys.exit("no licence")


def waits(prompts, completions):
    threading.Event().wait(30)


def test_an_async_function_is_awaited():
    assert score("four", kind="function", target=f"{__name__}:length_later") == 4


def test_a_function_or_class_may_be_named_as_in_hydra():
    assert score("four", **{"_target_": f"{__name__}.Scaled", "factor": 2.5}) == 10
    assert score("four", **{"_target_": f"{__name__}.shifted", "by": 1, "sign": -1}) == -5


@pytest.mark.parametrize(
    ("settings", "available", "names"),
    [
        ({"target": "graded"}, ["question"], ["answer"]),
        ({"target": "graded"}, ["answer", "level", "id", "factor"], ["answer", "level", "factor"]),
        ({"target": "graded", "arguments": {"factor": 2.0}}, ["answer", "level", "factor"], ["answer", "level"]),
        ({"target": "graded", "columns": ("id", "answer")}, ["answer", "id"], ["id", "answer"]),
        ({"target": "Matches", "arguments": {"case": 1}}, ["answer", "case"], ["answer"]),
        ({"target": "shifted", "arguments": {"by": 1}}, ["by"], []),
        ({"target": "length_later"}, ["answer"], []),
    ],
)
def test_a_function_reads_the_columns_that_its_parameters_name(settings, available, names):
    settings = settings | {"kind": "function", "target": f"{__name__}:{settings['target']}"}
    assert parse({"v": settings})["v"].reads(available) == names


def test_columns_are_passed_as_trl_passes_them():
    columns = {"answer": ["a", 1, None], "level": [0.5, 0.25, 0], "id": [1, 2, 3]}
    models = RewardModels(
        parse(
            {
                "graded": {"kind": "function", "target": f"{__name__}:graded"},
                "all": {"kind": "function", "target": f"{__name__}:graded", "columns": ["id"]},
                "matches": {"_target_": f"{__name__}.Matches", "case": 0},
                "plain": {"kind": "function", "target": f"{__name__}:length_later"},
            }
        )
    )
    texts = ["p"] * 3, ["a", "1", ""]
    assert models.score("graded", *texts, columns).tolist() == [1, 0.25, 0]
    assert models.score("all", *texts, columns).tolist() == [2, 1.25, 1]
    assert models.score("matches", *texts, columns).tolist() == [1, 0, 0]
    assert models.score("plain", *texts, columns).tolist() == [1, 1, 0]
    with pytest.raises(UserError, match="rewards.matches reads the column 'answer', which the data does not have"):
        models.score("matches", *texts, {"level": [1, 2, 3]})


def test_a_column_that_the_settings_do_not_name_is_not_passed():
    settings = {"kind": "function", "target": f"{__name__}:reads_by_key"}
    models = RewardModels(parse({"v": settings, "w": settings | {"columns": ["id"]}}))
    assert models.score("w", ["p"], ["a"], {"id": [7]}).tolist() == [7]
    with pytest.raises(UserError, match=r"KeyError: 'id'; it is called as f\(prompts=.*rewards.v.columns name"):
        models.score("v", ["p"], ["a"], {"id": [7]})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_scores", r"no_scores returned numbers of shape \(\) for 1 responses"),
        ("two_columns", r"two_columns returned numbers of shape \(1, 2\) for 1 responses"),
        ("raises", "raises raised IndexError: list index out of range; it is called as"),
        ("ends", "ends raised SystemExit: the judge has no licence; it is called as"),
        ("missing", "cannot be imported"),
    ],
)
def test_a_function_that_does_not_return_one_number_per_response_is_rejected(function, message):
    with pytest.raises(UserError, match=message):
        score("four", kind="function", target=f"{__name__}:{function}")


def test_a_target_without_a_function_is_rejected():
    with pytest.raises(UserError, match=r"rewards.v.target=nowhere cannot be imported .*write module:function"):
        score("four", kind="function", target="nowhere")


def test_a_class_that_ends_the_process_is_rejected():
    with pytest.raises(UserError, match=r"cannot be called with arguments=\{\} \(SystemExit: no licence\)"):
        score("four", kind="function", target=f"{__name__}:Ending")


def test_a_call_that_exceeds_the_timeout_is_rejected():
    with pytest.raises(UserError, match=r"has not returned within timeout=0.05 seconds"):
        score("four", kind="function", target=f"{__name__}:waits", timeout=0.05)
    assert score("four", kind="function", target=f"{__name__}:shifted", arguments={"by": 0}, timeout=60) == 4


def test_a_configuration_names_only_trusted_code(tmp_path, monkeypatch):
    (tmp_path / "here.py").write_text("def score(prompts, completions): return [1.0] * len(completions)")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine_too.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert is_trusted("here")
    assert is_trusted("trl.rewards.format_rewards")
    for module in ("os", "sys", "builtins", "subprocess", "numpy.random", "torch", "trl.scripts", "mine_too", "posix"):
        assert not is_trusted(module), module
        with pytest.raises(UserError, match=f"set {TRUST_VARIABLE}={module.partition('.')[0]} if you trust it"):
            parse({"v": {"_target_": f"{module}.anything"}})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    assert is_trusted("mine_too")
    monkeypatch.setenv(TRUST_VARIABLE, "numpy, torch")
    assert is_trusted("numpy.random")
    assert is_trusted("torch")
    assert not is_trusted("os")


def test_a_trusted_module_does_not_lend_its_imports(tmp_path, monkeypatch):
    """A module of the current folder that imports os.system does not make it a score."""
    (tmp_path / "borrows.py").write_text("from os import system")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"rewards.v.target=borrows:system names code"):
        score("four", kind="function", target="borrows:system")


def test_code_that_is_not_trusted_is_not_even_imported(tmp_path):
    """The import of a package that is not trusted would write a file."""
    (tmp_path / "site" / "evil").mkdir(parents=True)
    (tmp_path / "site" / "evil" / "__init__.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    code = (
        f"import sys; sys.path.append({str(tmp_path / 'site')!r}); from mapft.cli import main; "
        "sys.exit(main(['plan', 'rewards=[]', '+rewards.v._target_=evil.f', 'palette=custom', '+palette.sd.v=1']))"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "set MAPFT_TRUST=evil if you trust it" in process.stderr
    assert not (tmp_path / "trace").exists()
