"""The command line as a user meets it. Truth: exit codes, one sentence on stderr, and what is on disk."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mapft.cli import main
from mapft.glossary import METRICS
from mapft.tracking.lines import JsonLines
from tests import worlds
from tests.worlds import SMALL, own


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def entries(store):
    """What a store of samples and scores holds, its locks left out."""
    return [path for path in store.iterdir() if not path.name.startswith(".")]


def test_help_and_import_do_not_load_torch():
    code = "import sys, mapft, mapft.cli; mapft.cli.main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: mapft COMMAND" in done.stdout


def test_settings_compose_without_torch():
    code = "import sys, mapft.cli; mapft.cli.main(['run', '--cfg', 'job']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quantiles:" in done.stdout


def test_the_main_job_on_a_model_prompts_and_rewards_of_the_users_own(world, tmp_path, capfd):
    """GPT-2, its own tokenizer, English questions, a Python function and a BERT judge: nothing of the playground."""
    arguments = ["run", *own(world, tmp_path, *SMALL)]
    assert main(arguments) == 0
    printed = capfd.readouterr().out
    assert "Promised and realized" in printed
    [folder] = [path for path in tmp_path.iterdir() if path.name.startswith("run-custom-")]
    summary = json.loads((folder / "evaluation.json").read_text())
    assert summary["values"]["judge"]["target"] is None
    assert summary["values"]["judge"]["lam"] == 0
    vowels = summary["values"]["vowels"]
    assert vowels["lam"] > 0
    assert vowels["realized"]["low"] < vowels["realized"]["mean"] < vowels["realized"]["high"]
    assert vowels["gap_sd"] == pytest.approx((vowels["realized"]["mean"] - vowels["target"]) / vowels["sd"])
    for artifact in ("config.json", "samples.parquet", "scores.parquet", "solution.json", "report.md", "logs.jsonl"):
        assert (folder / artifact).stat().st_size > 0
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"} == before
    assert capfd.readouterr().out.count("Promised and realized") == 1
    assert main([*arguments, "evaluation.samples_per_prompt=8", "evaluation.confidence=0.5"]) == 0
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    changed = {path.name for path in after if path.is_file() and after[path] != before.get(path)}
    tables = {f"evaluation_{name}.parquet" for name in ("base", "tuned", "decoding")}
    pictures = {path.name for path in (folder / "figures").iterdir()}
    assert changed == {"evaluation.json", "report.md", "report.csv", "report.html"} | tables | pictures
    narrow = json.loads((folder / "evaluation.json").read_text())["values"]["vowels"]["realized"]
    assert narrow["high"] - narrow["low"] < 0.6 * (vowels["realized"]["high"] - vowels["realized"]["low"])
    assert emitted(folder / "logs.jsonl") == set(METRICS)


def test_decoding_streams_resumes_and_says_what_it_cannot_reach(world, tmp_path, capfd):
    arguments = ["decode", *own(world, tmp_path, "decoding.candidates=4", "sampling.batch_size=8")]
    assert main(arguments) == 0
    printed = capfd.readouterr().out
    assert "responses to" in printed
    [path] = tmp_path.glob("run-*/decoded-draw-4-*.jsonl")
    whole = path.read_text("utf-8").splitlines(keepends=True)
    rows = [json.loads(line) for line in whole]
    assert [row["prompt_id"] for row in rows] == list(range(len(rows)))
    assert {"prompt", "response", "vowels", "judge", "ess", "kl", "candidates"} <= set(rows[0])
    path.write_text("".join(whole[:3]) + whole[3][:20], "utf-8")
    assert main(arguments) == 0
    assert path.read_text("utf-8").splitlines(keepends=True) == whole
    (tmp_path / "one.jsonl").write_text(json.dumps({"question": "Why is it so quiet?"}) + "\n")
    one = [f"decoding.prompts={tmp_path / 'one.jsonl'}", "decoding.samples_per_prompt=3", "decoding.choose=best"]
    capfd.readouterr()
    assert main([*arguments, *one, "palette.quantiles.vowels=0.95", "decoding.candidates=2"]) == 0
    assert re.search(r"needs [0-9.]+ nats, .* draw \d+ candidates or more", capfd.readouterr().out)
    [path] = tmp_path.glob("run-*/decoded-best-2-*.jsonl")
    assert [json.loads(line)["prompt"] for line in path.read_text().splitlines()] == ["Why is it so quiet?"] * 3
    assert main([*arguments, "decoding.choose=rejection"]) == 2
    assert "vowels has none; choose=draw" in capfd.readouterr().err
    (tmp_path / "long.jsonl").write_text(json.dumps({"question": "Why is it so quiet? " * 30}) + "\n")
    assert main([*arguments, f"decoding.prompts={tmp_path / 'long.jsonl'}"]) == 2
    assert "longer than the 64 positions of the model" in capfd.readouterr().err


def test_any_policy_is_evaluated_beside_the_others(world, tmp_path, capfd):
    """The run's own adapter under another name has the levels of `tuned` within noise, and a KL of its own."""
    arguments = own(world, tmp_path, *SMALL)
    assert main(["train", *arguments]) == 0
    [adapter] = tmp_path.glob("run-*/adapter")
    more = [f"+evaluation.policies.other.adapter={adapter}", "+evaluation.policies.other.samples_per_prompt=6"]
    more += ["+evaluation.policies.best={candidates: 4, choose: best}"]
    assert main(["evaluate", *arguments, *more]) == 0
    found = json.loads((adapter.parent / "evaluation.json").read_text())["policies"]
    assert list(found) == ["base", "tuned", "decoding", "other", "best"]
    assert found["other"]["responses"] == 6 * found["decoding"]["responses"]
    assert found["base"]["kl"]["mean"] == 0
    assert found["best"]["kl"]["mean"] == pytest.approx(math.log(4) - 0.75)
    assert found["best"]["win_rate"]["vowels"]["mean"] > 0.5
    report = (adapter.parent / "report.html").read_text()
    assert "mapft evaluate experiment=own" in report
    assert "bootstrap" in report
    assert {path.stem for path in (adapter.parent / "figures").glob("*.svg")} == {
        "promise",
        "radar",
        "front",
        "distributions",
        "trajectories",
    }
    for wrong, said in (
        ("none={}", "either an adapter or candidates"),
        ("two={adapter: x, candidates: 2}", "either an adapter or candidates"),
        ("odd={candidate: 2}", "its settings are adapter, candidates, choose"),
        ("odd={candidates: many}", "evaluation.policies.odd.candidates=many is no whole number"),
        ("odd={candidates: 2, choose: worst}", "choose=worst is none of draw, best, rejection"),
        ("tuned={candidates: 2}", "the two that are always there"),
        ("gone={adapter: /no/such/adapter}", "evaluation.policies.gone.adapter=/no/such/adapter does not exist"),
        (f"wrong={{adapter: {world['model']}}}", "holds no adapter that fits the model"),
    ):
        assert main(["evaluate", *arguments, f"+evaluation.policies.{wrong}"]) == 2
        assert said in capfd.readouterr().err


def test_an_evaluation_is_made_again_when_a_policy_or_the_report_is_another(world, tmp_path):
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


def test_responses_that_rejection_could_not_give_are_left_out_and_counted(world, tmp_path, capfd):
    """Vowels are a share, at most 1; with lambda of about 10 few candidates of two are accepted."""
    more = ["+rewards.judge.output=probability", "+rewards.vowels.high=0.4", "palette.quantiles.vowels=0.9"]
    arguments = own(world, tmp_path, *SMALL, *more)
    policy = "+evaluation.policies.exact={candidates: 2, choose: rejection, samples_per_prompt: 4}"
    assert main(["evaluate", *arguments, policy, "decoding.candidates=2", "decoding.most_candidates=2"]) == 0
    printed = capfd.readouterr().out
    missing, total = map(int, re.search(r"(\d+) of (\d+) responses of exact are missing", printed).groups())
    [evaluation] = tmp_path.glob("run-*/evaluation.json")
    assert json.loads(evaluation.read_text())["policies"]["exact"]["responses"] == total - missing > 0
    more = ["decoding.choose=rejection", "decoding.candidates=2", "decoding.most_candidates=2"]
    assert main(["decode", *arguments, *more]) == 0
    assert re.search(r"Accepted: \d+ of \d+ candidates", capfd.readouterr().out)


@pytest.mark.slow
def test_every_method_is_compared_and_nothing_is_made_twice(world, tmp_path, capfd):
    targets = ["+palette.quantiles.judge=0.6", "sampling.samples_per_prompt=16"]
    sizes = ["comparison.random_weights=2", "comparison.soup_steps=2", "comparison.candidates=4"]
    arguments = ["compare", *own(world, tmp_path, *SMALL, *targets, *sizes, "mode=sequential", "mode.rounds=1")]
    arguments += ["mode.stage_episodes=64"]
    assert main(arguments) == 0
    [points] = tmp_path.glob("run-*/comparison/points.json")
    assert json.loads(points.read_text())["failed"] == {}
    families = [point["family"] for point in json.loads(points.read_text())["points"].values()]
    trained = ["single"] * 2 + ["morlhf"] * 2 + ["soup", "dpo", "published"]
    assert families == ["base", "simultaneous", "sequential", "decoding", "best_of_n", *trained]
    assert "Points in the palette's quadrant: base 0/1, simultaneous" in capfd.readouterr().out
    assert {path.name for path in points.parent.iterdir()} == {
        "points.json",
        "points.csv",
        "comparison.md",
        "comparison.svg",
        "comparison.png",
    }
    adapters = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("adapter_model.safetensors")}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("adapter_model.safetensors")} == adapters


def emitted(logs: Path) -> set[str]:
    """Names of all metrics, with the names of values and reward functions taken out."""
    names = {name for line in logs.read_text().splitlines() for name in json.loads(line)}
    names = {re.sub(r"^(map/\w+)/(vowels|judge)$", r"\1/{value}", name) for name in names}
    return {re.sub(r"^rewards/palette/", "rewards/{function}/", name) for name in names}


def test_two_commands_do_not_work_on_one_run_at_a_time(world, tmp_path, capfd):
    arguments = own(world, tmp_path)
    assert main(["score", *arguments]) == 0
    [folder] = tmp_path.glob("run-*")
    with FileLock(folder / ".lock"):
        assert main(["solve", *arguments]) == 2
    assert f"Another process is at work on {folder}" in capfd.readouterr().err
    assert main(["solve", *arguments]) == 0


def test_the_glossary_is_printed(capsys):
    assert main(["metrics"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in METRICS)


def test_stages_alone_and_the_shared_store(world, tmp_path, capfd):
    """Another palette reuses samples and scores; another seed does not."""
    assert main(["sample", *own(world, tmp_path)]) == 0
    assert main(["solve", *own(world, tmp_path)]) == 0
    assert main(["solve", *own(world, tmp_path, "palette.quantiles.vowels=0.7")]) == 0
    assert "nats" in capfd.readouterr().out
    assert main(["solve", *own(world, tmp_path), "--json"]) == 0
    solution = json.loads(capfd.readouterr().out)
    assert solution["status"] == "optimal"
    assert solution["lam"]["vowels"] > 0
    assert sorted(p.name.split("-")[0] for p in entries(tmp_path / "store")) == ["samples", "score", "score"]
    assert main(["sample", *own(world, tmp_path, "seed=1")]) == 0
    assert len(entries(tmp_path / "store")) == 4


def test_another_value_scores_nothing_again_and_batches_are_no_part_of_a_run(world, tmp_path):
    assert main(["score", *own(world, tmp_path)]) == 0
    [folder] = [path for path in tmp_path.iterdir() if path.name != "store"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("[!.]*/**/*") if path.is_file()}
    assert main(["score", *own(world, tmp_path, "+rewards.judge.batch_tokens=100")]) == 0
    assert [path for path in tmp_path.iterdir() if path.name != "store"] == [folder]
    assert main(["score", *own(world, tmp_path, "+rewards.brief={kind: length, sign: -1}")]) == 0
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("[!.]*/**/*") if path.is_file()}
    assert {path.parent.name.split("-")[1] for path in after.keys() - before.keys()} == {"brief"}
    assert all(after[path] == before[path] for path in before)


def test_two_runs_at_once_share_what_they_score(world, tmp_path):
    """Both begin with nothing and write the same scores."""
    command = [sys.executable, "-m", "mapft.cli", "score", *own(world, tmp_path)]
    runs = [
        subprocess.Popen([*command, f"palette.quantiles.vowels={q}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for q in (0.6, 0.7)
    ]
    for run in runs:
        _, said = run.communicate(timeout=300)
        assert run.returncode == 0, said


def test_a_changed_reward_model_is_scored_anew(tmp_path):
    paths = worlds.build(tmp_path)
    assert main(["score", *own(paths, tmp_path / "runs")]) == 0
    weights = paths["judge"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert main(["score", *own(paths, tmp_path / "runs")]) == 0
    kinds = [path.name.split("-")[0] for path in entries(tmp_path / "runs" / "store")]
    assert sorted(kinds) == ["samples", "score", "score", "score"]


def test_a_changed_reward_function_is_scored_anew(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "my_scores.py"
    source.write_text("def length(prompts, completions): return [float(len(c)) for c in completions]")
    overrides = own(world, tmp_path / "runs", "rewards.vowels.target=my_scores:length")
    assert main(["score", *overrides]) == 0
    source.write_text("def length(prompts, completions): return [float(len(c)) ** 2 for c in completions]")
    assert main(["score", *overrides]) == 0
    kinds = [path.name.split("-")[0] for path in entries(tmp_path / "runs" / "store")]
    assert sorted(kinds) == ["samples", "score", "score", "score"]


def test_unattainable_palette_stops_before_training_and_names_the_nearest(world, tmp_path, capfd):
    overrides = own(world, tmp_path, palette="+palette.absolute.vowels=5.0")
    assert main(["run", *overrides]) == 2
    said = capfd.readouterr().err
    assert "No re-weighting of the base samples" in said
    assert "Margin -" in said
    assert "nearest attainable palette: vowels 5 ->" in said
    assert not list(tmp_path.rglob("adapter"))
    assert not list(tmp_path.rglob("checkpoints"))
    nearest = [*overrides, "dual.if_unattainable=nearest"]
    assert main(["solve", *nearest]) == 0
    said = capfd.readouterr().out
    assert "out of reach; this is the nearest one" in said
    assert "adjusted palette" in said
    assert main(["solve", *nearest, "--json"]) == 0
    solution = json.loads(capfd.readouterr().out)
    assert solution["asked"] == {"vowels": 5.0}
    assert solution["adjusted"] is True
    assert solution["targets"]["vowels"] < 1
    assert solution["intervals"]["lam"]["vowels"]["low"] <= solution["lam"]["vowels"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["palette.quantile.vowels=0.5"],
            "There is no setting palette.quantile; the settings here are name, quantiles",
        ),
        (["trainer.learning_rat=1"], "There is no setting trainer.learning_rat"),
        (["trainer.learning_rate=fast"], "Value 'fast' of type 'str' could not be converted to Float"),
        (["refine.every=0"], "refine.every=0 is out of range; it must be at least 1, or null for never."),
        (["evaluation.prompts=0"], "evaluation.prompts=0 is out of range"),
        (["trainer.save_total_limit=1"], "trainer.save_total_limit=1 is out of range; it must be at least 2"),
        (["trainer.critic_trunk=none"], "Invalid value 'none', expected one of [reference, policy]"),
        (["model.quantization=int9"], "Invalid value 'int9', expected one of [none, nf4, int8]"),
        (["model.adapter=/nowhere/adapter"], "model.adapter=/nowhere/adapter does not exist"),
        (["sampling.temperature=0"], "sampling.temperature=0.0 is out of range; it must be from 0.001 to 1000."),
        (
            ["+palette.quantiles.humour=0.6"],
            "asks for humour, which no reward scores (rewards: vowels, judge; palette:",
        ),
        (["palette=hhh_99"], "hhh_99"),
        (["mode=sequential", "mode.order=[judge]"], "mode.order=judge is no order of the palette's values"),
        (["mode.rounds=3"], "There is no setting mode.rounds; the settings here are name, reward_models."),
        (["dual.estimator=best"], "best"),
        (["model.path=/no/such/model"], "model.path=/no/such/model does not exist"),
        (["+rewards.third=foo"], "rewards.third=foo is no group of settings"),
        (["data.path=missing.jsonl"], "data.path=missing.jsonl does not exist"),
        (["sampling.max_new_tokens=60"], "longer than the 64 positions of the model"),
        (["sampling.top_p=2"], "sampling.top_p=2.0 is out of range"),
        (["trainer.critic_epochs=0"], "trainer.critic_epochs=0 is out of range"),
        (["rewards.judge.path=MODEL"], "lacks weights"),
        (["data.path=/no/such/prompts.jsonl"], "data.path=/no/such/prompts.jsonl does not exist"),
        (["data.column=text"], "has no column 'text' (it has question)"),
        (["rewards.vowels.target=tests.worlds:broken"], "'vowels' is nan for response 2"),
        (["rewards.judge.path=/no/judge"], "rewards.judge.path=/no/judge does not exist"),
        (["palette.quantiles.vowels=60"], "quantile 60.0 of value 'vowels' is outside [0, 1]"),
        (["data.path=EMPTY"], "0 distinct prompts"),
        (["data.max_prompt_tokens=0"], "data.max_prompt_tokens=0 is out of range"),
        (["data.max_prompt_tokens=2", "data.too_long=drop"], "which leaves 0; at least 2 are needed"),
        (
            ["+palette.relative_gain.judge=0.5"],
            "relative_gain is for scores in nats, and judge (logit) is none",
        ),
        (["+palette.relative_gain_probability.judge=0.5"], "is for scores in probability, and judge (logit) is none"),
        (
            ["+rewards.judge.output=probability", "+palette.absolute.judge=1.5"],
            "The target of judge is 1.5, beyond what its score can be (0 to 1)",
        ),
    ],
)
def test_a_users_mistake_is_one_sentence_and_nothing_is_written_over(world, tmp_path, capfd, more, words):
    (tmp_path / "empty.jsonl").touch()
    more = [word.replace("EMPTY", str(tmp_path / "empty.jsonl")).replace("MODEL", str(world["model"])) for word in more]
    assert main(["run", *own(world, tmp_path, *more)]) == 2
    said = capfd.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("mapft:")]) == 1
    assert not list(tmp_path.rglob("adapter"))


def test_a_folder_of_another_run_is_refused(world, tmp_path, capfd):
    folder = f"run_dir={tmp_path / 'mine'}"
    assert main(["sample", *own(world, tmp_path, folder)]) == 0
    before = (tmp_path / "mine" / "config.json").read_bytes()
    assert main(["sample", *own(world, tmp_path, folder, "seed=5")]) == 2
    assert "holds a run with other settings" in capfd.readouterr().err
    assert (tmp_path / "mine" / "config.json").read_bytes() == before


def test_unknown_command(capfd):
    assert main(["slove"]) == 2
    assert "use one of run, sample, score, solve, train, evaluate" in capfd.readouterr().err


REFINED = [
    "trainer.total_episodes=192",
    "trainer.per_device_train_batch_size=8",
    "trainer.num_mini_batches=2",
    "trainer.num_ppo_epochs=2",
    "trainer.learning_rate=3e-3",
    "evaluation.samples_per_prompt=2",
    "refine.every=2",
    "refine.start=0",
    "refine.tolerance=0",
    "+palette.quantiles.judge=0.6",
]


def windows(folder: Path) -> list[dict]:
    return json.loads((folder / "refinement.json").read_text())["windows"]


def test_two_processes_share_one_run_folder(world, tmp_path):
    """accelerate launch -m mapft.train with two CPU processes: one folder, one set of artifacts, one lambda."""
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "-m", "mapft.train"]
    done = subprocess.run(
        [sys.executable, *command, *own(world, tmp_path, *REFINED)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Promised and realized") == 1
    [folder] = [path for path in tmp_path.iterdir() if path.name.startswith("run-custom-")]
    lines = [json.loads(line) for line in (folder / "logs.jsonl").read_text().splitlines()]
    # 192 episodes / (8 per step and process * 2 mini-batches * 2 processes) = 6 iterations of 4 steps
    assert max(line["step"] for line in lines) == 24
    assert [window["rollouts"] for window in windows(folder)] == [64] * 3
    # logs.jsonl averages over the processes: had their multipliers differed, it would not hold the main one's
    assert windows(folder)[1]["delta"]["vowels"] != 0
    logged = {line["step"]: line["map/lam/vowels"] for line in lines if "map/lam/vowels" in line}
    assert logged[13] == pytest.approx(windows(folder)[1]["lam"]["vowels"], rel=1e-6)


def test_two_processes_take_the_same_stages(world, tmp_path):
    """Sequential mode under two processes: one set of stages, one adapter, and a table at the end."""
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "-m", "mapft.train"]
    mode = ["mode=sequential", "mode.rounds=2", "mode.tolerance=0", "mode.smallest_step=0", "mode.stage_episodes=64"]
    overrides = own(world, tmp_path, *SMALL, *mode, "+palette.sd.judge=0.05", f"run_dir={tmp_path / 'run'}")
    done = subprocess.run([sys.executable, *command, *overrides], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Promised and realized") == 1
    stages = json.loads((tmp_path / "run" / "sequential.json").read_text())["stages"]
    assert [stage["value"] for stage in stages] == ["vowels", "judge"] * 2
    assert any(not stage["skipped"] for stage in stages)
    for stage in stages:
        assert (tmp_path / "run" / stage["folder"] / "adapter").exists() != stage["skipped"]


def test_sequential_mode_runs_to_the_closing_table(world, tmp_path, capfd):
    """Both values are visited; the report says why it ended, and the pictures are there."""
    mode = [
        "mode=sequential",
        "mode.rounds=1",
        "mode.stage_episodes=64",
        "+palette.sd.judge=0.05",
        "mode.order=[judge,vowels]",
    ]
    assert main(["run", *own(world, tmp_path, *SMALL, *mode, f"run_dir={tmp_path / 'run'}")]) == 0
    printed = capfd.readouterr().out
    assert re.search(r"2 stages, \d of them skipped: All rounds \(1\) are spent\.", printed)
    summary = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [stage["value"] for stage in summary["stages"]] == ["judge", "vowels"]
    assert summary["lam"] == {stage["value"]: stage["lam"] for stage in summary["stages"]}
    assert sorted(path.name for path in (tmp_path / "run" / "figures").glob("*.png")) == [
        "distributions.png",
        "front.png",
        "promise.png",
        "radar.png",
        "stages.png",
        "trajectories.png",
    ]
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()


def test_a_killed_job_goes_on_to_the_same_adapter(world, tmp_path, monkeypatch):
    """Stopped within an iteration, between two refinements: the same command ends where it would have, to the bit."""
    overrides = own(world, tmp_path, *REFINED, "trainer.save_steps=1")
    assert main(["train", *overrides, f"run_dir={tmp_path / 'whole'}"]) == 0
    log = JsonLines.on_log

    def stop(self, args, state, *rest, **more):
        log(self, args, state, *rest, **more)
        if state.global_step == 31:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "on_log", stop)
        assert main(["train", *overrides, f"run_dir={tmp_path / 'cut'}"]) == 130
    assert not (tmp_path / "cut" / "adapter").exists()
    assert main(["train", *overrides, f"run_dir={tmp_path / 'cut'}"]) == 0
    assert windows(tmp_path / "cut") == windows(tmp_path / "whole")
    assert any("delta" in window for window in windows(tmp_path / "cut"))
    resumed, whole = (
        (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("cut", "whole")
    )
    assert resumed == whole


def test_an_evaluation_belongs_to_its_adapter(world, tmp_path):
    """Two runs of the same settings that share a store: the adapter of one is replaced, and measured as what it is."""
    overrides = own(world, tmp_path, *SMALL)
    assert main(["run", *overrides, f"run_dir={tmp_path / 'a'}"]) == 0
    assert main(["train", *overrides, f"run_dir={tmp_path / 'b'}"]) == 0
    weights = tmp_path / "b" / "adapter" / "adapter_model.safetensors"
    save_file({name: 5 * array for name, array in load_file(weights).items()}, weights, {"format": "pt"})
    assert main(["run", *overrides, f"run_dir={tmp_path / 'b'}"]) == 0
    first, second = (json.loads((tmp_path / name / "evaluation.json").read_text())["kl"]["mean"] for name in "ab")
    assert second > 2 * first


@pytest.mark.parametrize(
    "variant",
    [
        "model.quantization=nf4",
        "model.quantization=int8",
        "adapter.use_dora=true",
        "adapter.use_rslora=true",
        "trainer.gradient_checkpointing=true",
    ],
)
def test_variants_start_at_the_reference_and_move(world, tmp_path, variant):
    """The first rollout has KL 0 and ratio 1 whatever holds the base or shapes the adapter."""
    run = tmp_path / "run"
    assert main(["train", *own(world, tmp_path, *SMALL, variant, f"run_dir={run}", "trainer.learning_rate=3e-3")]) == 0
    lines = [json.loads(line) for line in (run / "logs.jsonl").read_text().splitlines()]
    first, *_, last = [line for line in lines if "objective/kl" in line]
    assert first["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert first["val/ratio"] == pytest.approx(1, abs=1e-4)
    assert abs(last["objective/kl"]) > 1e-3
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    assert all(array.any() for name, array in weights.items() if "lora_B" in name)
    assert {array.dtype for array in weights.values()} == {torch.float32}


def test_export_gives_one_model_and_cards(world, tmp_path):
    """The merged model's logits are those of base and adapter loaded by PEFT alone."""
    overrides = own(world, tmp_path, *SMALL, f"run_dir={tmp_path / 'run'}", "trainer.learning_rate=3e-3")
    assert main(["export", *overrides]) == 0
    evaluated = (tmp_path / "run" / "evaluation.json").stat().st_mtime_ns
    assert main(["export", *overrides]) == 0
    assert (tmp_path / "run" / "evaluation.json").stat().st_mtime_ns == evaluated
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "merged").eval()(ids).logits
        apart = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run" / "adapter").eval()(ids).logits
        base = AutoModelForCausalLM.from_pretrained(world["model"]).eval()(ids).logits
    torch.testing.assert_close(whole, apart, atol=1e-4, rtol=1e-4)
    assert (whole - base).abs().max() > 1e-3
    summary = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    # a run that starts from this adapter finds itself again after another export
    start = [*overrides[:-2], f"model.adapter={tmp_path / 'run' / 'adapter'}", f"run_dir={tmp_path / 'next'}"]
    assert main(["sample", *start]) == 0
    assert main(["export", *overrides]) == 0
    assert main(["sample", *start]) == 0
    for folder, library in (("adapter", "peft"), ("merged", "transformers")):
        card = (tmp_path / "run" / folder / "README.md").read_text()
        assert f"library_name: {library}" in card
        assert f"{summary['values']['vowels']['realized']['mean']:.4g}" in card
        assert f"{summary['lam']['vowels']:.4g}" in card
    assert main(["export", *overrides[:-2], f"run_dir={tmp_path / 'q'}", "model.quantization=nf4"]) == 2


def test_training_goes_on_from_an_adapter_which_is_then_the_reference(world, tmp_path, capfd):
    """A second run that hardly moves: its KL is 0 to the first run's policy, which lies far from the bare model."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["run", *own(world, tmp_path, *SMALL, "trainer.learning_rate=3e-3", f"run_dir={first}")]) == 0
    capfd.readouterr()
    more = ["trainer.learning_rate=1e-6", f"model.adapter={first / 'adapter'}", f"run_dir={second}"]
    assert main(["run", *own(world, tmp_path, *SMALL, *more)]) == 0
    assert f"with the adapter {first / 'adapter'}" in capfd.readouterr().out.replace("\n", "")
    logged = [json.loads(line) for line in (second / "logs.jsonl").read_text().splitlines()]
    assert logged[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    near, far = (json.loads((folder / "evaluation.json").read_text())["kl"]["mean"] for folder in (second, first))
    assert far > 0.1
    assert near == pytest.approx(0, abs=1e-2)
    before, after = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (first, second))
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in after)
    assert not (second / "adapter" / "ref").exists()
