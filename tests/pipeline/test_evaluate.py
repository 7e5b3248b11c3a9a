"""Stage `evaluate`. Truth: closed forms of decoding, and the adapters that were evaluated."""

import json
import math
import re
import shutil

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from mapft.cli import main
from tests import worlds
from tests.worlds import SMALL, own


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def test_additional_policies_are_evaluated(world, tmp_path, capfd):
    """The run's own adapter under another name has the levels of `tuned` within noise, and a KL of its own."""
    arguments = own(world, tmp_path, *SMALL)
    assert main(["train", *arguments]) == 0
    [adapter] = tmp_path.glob("run-*/adapter")
    more = ["evaluation=decoding", f"+evaluation.policies.other.adapter={adapter}"]
    more += ["+evaluation.policies.other.samples_per_prompt=6"]
    more += ["+evaluation.policies.best={candidates: 4, choose: best}"]
    more += [f"+evaluation.policies.resampled={{adapter: {adapter}, candidates: 4, samples_per_prompt: 1}}"]
    more += [f"+evaluation.policies.redrawn={{adapter: {adapter}, candidates: 4, samples_per_prompt: 3}}"]
    capfd.readouterr()
    assert main(["evaluate", *arguments, *more]) == 0
    printed = capfd.readouterr().out
    found = json.loads((adapter.parent / "evaluation.json").read_text())["policies"]
    assert list(found) == ["base", "tuned", "decoding", "other", "best", "resampled", "redrawn"]
    assert [name for name in found if found[name]["kl_is_bound"]] == ["decoding", "best", "resampled"]
    assert re.search(r"best: gaps vowels [+-][01][.]\d+ sd, KL at most 0[.]636 nats[.]", printed), printed
    assert re.search(r"redrawn: gaps vowels [+-][01][.]\d+ sd, KL -?\d", printed)
    assert found["other"]["responses"] == 6 * found["decoding"]["responses"]
    assert found["base"]["kl"]["mean"] == 0
    assert found["best"]["kl"]["mean"] == pytest.approx(math.log(4) - 0.75)
    assert found["resampled"]["responses"] == found["decoding"]["responses"]
    resampled = pd.read_parquet(adapter.parent / "evaluation_resampled.parquet")
    assert resampled["ess"].between(1, 4).all()
    assert (resampled["candidates"] == 4).all()
    assert found["best"]["win_rate"]["vowels"]["mean"] > 0.5
    report = (adapter.parent / "report.html").read_text()
    assert "mapft evaluate experiment=own" in report
    assert "bootstrap" in report
    names = {"levels", "prices", "front", "distributions", "trajectories"}
    stems = {path.stem for path in (adapter.parent / "figures").glob("*.svg")}
    assert stems == names | {f"{name}-narrow" for name in names}
    assert adapter.parent.name in (tmp_path / "runs.html").read_text()
    for wrong, said in (
        ("none={}", "neither an adapter nor candidates"),
        ("two={adapter: x, candidates: 2, choose: best}", "choose=best is invalid; it must be sample with an adapter"),
        ("odd={candidate: 2}", "a mapping of some of adapter, candidates, choose"),
        ("odd={candidates: many}", "evaluation.policies.odd.candidates: Value 'many'"),
        ("odd={candidates: 2, choose: worst}", "evaluation.policies.odd.choose: Invalid value 'worst'"),
        ("tuned={candidates: 2}", "evaluation.policies.tuned cannot have this name"),
        ("gone={adapter: /no/such/adapter}", "evaluation.policies.gone.adapter=/no/such/adapter does not exist"),
        (f"wrong={{adapter: {world['model']}}}", "cannot be loaded as an adapter of the model"),
    ):
        assert main(["evaluate", *arguments, f"+evaluation.policies.{wrong}"]) == 2
        assert said in capfd.readouterr().err


def test_an_evaluation_is_repeated_when_a_policy_or_the_report_changes(world, tmp_path):
    arguments = own(world, tmp_path, *SMALL)
    assert main(["train", *arguments]) == 0
    [run] = tmp_path.glob("run-*")
    other = tmp_path / "other"
    shutil.copytree(run / "adapter", other)
    arguments = ["evaluate", *arguments, f"+evaluation.policies.other.adapter={other}"]
    assert main(arguments) == 0
    before = json.loads((run / "evaluation.json").read_text())["policies"]
    weights = load_file(other / "adapter_model.safetensors")
    save_file({name: 5 * tensor for name, tensor in weights.items()}, other / "adapter_model.safetensors")
    (run / "report.html").unlink()
    assert main(arguments) == 0
    after = json.loads((run / "evaluation.json").read_text())["policies"]
    assert after["other"]["kl"]["mean"] > 0.1 > before["other"]["kl"]["mean"]
    assert after["tuned"] == before["tuned"]
    assert (run / "report.html").exists()


def test_prompts_that_rejection_leaves_unanswered_are_skipped_and_counted(world, tmp_path, capfd):
    """Vowels are a share, at most 1; with lambda of about 10 few candidates of two are accepted."""
    more = ["+rewards.judge.output=probability", "+rewards.vowels.high=0.4", "palette.quantiles.vowels=0.9"]
    arguments = own(world, tmp_path, *SMALL, *more)
    policy = "+evaluation.policies.exact={candidates: 2, choose: rejection, samples_per_prompt: 4}"
    assert main(["evaluate", *arguments, policy, "decoding.candidates=2", "decoding.max_candidates=2"]) == 0
    printed = capfd.readouterr().out
    missing, total = map(int, re.search(r"(\d+) of (\d+) responses of exact are missing", printed).groups())
    [evaluation] = tmp_path.glob("run-*/evaluation.json")
    assert json.loads(evaluation.read_text())["policies"]["exact"]["responses"] == total - missing > 0
    more = ["decoding.choose=rejection", "decoding.candidates=2", "decoding.max_candidates=2"]
    assert main(["decode", *arguments, *more]) == 0
    assert re.search(r"Accepted: \d+ of \d+ candidates", capfd.readouterr().out)


def test_an_evaluation_belongs_to_its_adapter(world, tmp_path):
    """Two runs of the same settings that share a cache: the adapter of one is replaced, and measured as what it is."""
    overrides = own(world, tmp_path, *SMALL)
    assert main(["run", *overrides, f"run_dir={tmp_path / 'a'}"]) == 0
    assert main(["train", *overrides, f"run_dir={tmp_path / 'b'}"]) == 0
    weights = tmp_path / "b" / "adapter" / "adapter_model.safetensors"
    save_file({name: 5 * array for name, array in load_file(weights).items()}, weights, {"format": "pt"})
    assert main(["run", *overrides, f"run_dir={tmp_path / 'b'}"]) == 0
    first, second = (
        json.loads((tmp_path / name / "evaluation.json").read_text())["policies"]["tuned"]["kl"]["mean"]
        for name in "ab"
    )
    assert second > 2 * first
