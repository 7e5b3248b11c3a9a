"""Invalid input, one row each. Truth: exit code 2, one sentence with the cause and the value, nothing lost."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

from mapft.cli import main
from tests import worlds
from tests.worlds import SMALL, own

# Overrides of a run that is right without them, and words of the sentence.
SETTINGS = [
    ("adaptr.r=8", "The setting adaptr is unknown"),
    ("adapter.rank=8", "The setting adapter.rank is unknown; the settings here are r, alpha"),
    ("adapter.r=0", "adapter.r=0 is invalid; it must be at least 1"),
    (
        "'adapter.target_modules=\"[q\"'",
        "adapter.target_modules=[q is invalid; it must be all-linear or a regular expr",
    ),
    ("adapter.r=many", "adapter.r: Value 'many'"),
    ("adapter.r=1.5", "adapter.r: Value '1.5'"),
    ("adapter.use_dora=perhaps", "adapter.use_dora: Value 'perhaps'"),
    ("foo=1", "The setting foo is unknown"),
    ("+foo=1", "The setting foo is unknown"),
    ("seed=first", "seed: Value 'first'"),
    ("seed=-1", "seed=-1 is invalid; it must be at least 0 and below 4294967296"),
    ("seed=4294967296", "seed=4294967296 is invalid"),
    ("seed=", "seed= has no value; leave it out, or write seed=null"),
    ("run_dir=", "run_dir= has no value"),
    ("name=a/b", "name=a/b is invalid; it must be up to 100 letters"),
    ("palette.name=../../x", "palette.name=../../x is invalid"),
    ("trainer=null", "trainer=null leaves the group trainer without a file; choose one of conf/trainer"),
    ("+sampling=null", "+sampling=null leaves the group sampling without a file"),
    ("data.as_chat=true", "has no chat template; use prompts that are texts"),
    ("data.path=", "data.path= has no value"),
    ("data.evaluation_fraction=0", "data.evaluation_fraction=0.0 is invalid"),
    ("data.evaluation_fraction=1", "data.evaluation_fraction=1.0 is invalid"),
    ("data.evaluation_fraction=nan", "data.evaluation_fraction=nan is invalid"),
    ("data.pilot_prompts=0", "data.pilot_prompts=0 is invalid"),
    ("data.max_prompt_tokens=0", "data.max_prompt_tokens=0 is invalid"),
    ("data.max_prompt_tokens=1", "A prompt of"),
    ("data.too_long=explode", "data.too_long: Invalid value 'explode', expected one of [stop, drop, cut]"),
    ("data.extract=middle", "data.extract: Invalid value 'middle'"),
    ("model.dtype=float99", "model.dtype: Invalid value 'float99'"),
    ("model.quantization=int3", "model.quantization: Invalid value 'int3', expected one of [none, nf4, int8]"),
    ("model.trust_remote_code=please", "model.trust_remote_code: Value 'please'"),
    ("sampling.max_new_tokens=0", "sampling.max_new_tokens=0 is invalid"),
    ("sampling.max_new_tokens=64", "longer than the 64 positions of the model"),
    ("sampling.temperature=0", "sampling.temperature=0.0 is invalid; it must be at least 0.001"),
    ("sampling.temperature=-1", "sampling.temperature=-1.0 is invalid"),
    ("sampling.temperature=nan", "sampling.temperature=nan is invalid"),
    ("sampling.temperature=inf", "sampling.temperature=inf is invalid"),
    (
        "sampling.temperature=1e-300",
        "sampling.temperature=1e-300 is invalid; it must be at least 0.001 and at most 1000",
    ),
    ("sampling.top_p=0", "sampling.top_p=0.0 is invalid"),
    ("sampling.top_p=1.5", "sampling.top_p=1.5 is invalid"),
    ("sampling.top_k=-1", "sampling.top_k=-1 is invalid"),
    ("sampling.batch_size=0", "sampling.batch_size=0 is invalid"),
    ("sampling.samples_per_prompt=0", "sampling.samples_per_prompt=0 is invalid"),
    ("dual.estimator=magic", "dual.estimator: Invalid value 'magic'"),
    ("dual.if_infeasible=cry", "dual.if_infeasible: Invalid value 'cry', expected one of [stop, nearest]"),
    ("dual.floor_ess=-1", "dual.floor_ess=-1.0 is invalid"),
    ("refine.every=0", "refine.every=0 is invalid; it must be at least 1, or null to keep the pilot's lambda"),
    ("refine.start=2", "refine.start=2.0 is invalid"),
    ("refine.tolerance=-1", "refine.tolerance=-1.0 is invalid"),
    ("trainer.total_episodes=0", "trainer.total_episodes=0 is invalid"),
    ("trainer.per_device_train_batch_size=0", "trainer.per_device_train_batch_size=0 is invalid"),
    ("trainer.per_device_train_batch_size=99999999999", "is invalid; it must be at least 1 and below 2^31"),
    ("trainer.num_mini_batches=0", "trainer.num_mini_batches=0 is invalid"),
    ("trainer.num_ppo_epochs=0", "trainer.num_ppo_epochs=0 is invalid"),
    ("trainer.num_generations=0", "trainer.num_generations=0 is invalid"),
    ("trainer.learning_rate=0", "trainer.learning_rate=0.0 is invalid; it must be above 0"),
    ("trainer.learning_rate=nan", "trainer.learning_rate=nan is invalid"),
    ("trainer.learning_rate=inf", "trainer.learning_rate=inf is invalid"),
    ("trainer.learning_rate=fast", "trainer.learning_rate: Value 'fast'"),
    ("trainer.lr_scheduler_type=zigzag", "trainer.lr_scheduler_type: Invalid value 'zigzag', expected one of [linear"),
    ("trainer.kl_coef=0", "trainer.kl_coef=0.0 is invalid"),
    ("trainer.cliprange=-0.2", "trainer.cliprange=-0.2 is invalid"),
    ("trainer.gamma=1.5", "trainer.gamma=1.5 is invalid"),
    ("trainer.gae_lambda=-0.1", "trainer.gae_lambda=-0.1 is invalid"),
    ("trainer.max_grad_norm=-1", "trainer.max_grad_norm=-1.0 is invalid"),
    ("trainer.num_generations=1", "trainer.num_generations=1 does not work with trainer.replay_batch="),
    ("trainer.num_generations=3", "a divisor of the"),
    ("trainer.replay_capacity=2 trainer.num_generations=4", "trainer.replay_capacity=2 is less than"),
    ("trainer.critic_trunk=none", "trainer.critic_trunk: Invalid value 'none'"),
    ("trainer.critic_epochs=0", "trainer.critic_epochs=0 is invalid"),
    ("trainer.save_steps=0", "trainer.save_steps=0 is invalid"),
    ("trainer.save_total_limit=1", "trainer.save_total_limit=1 is invalid; it must be at least 2"),
    ("decoding.candidates=0", "decoding.candidates=0 is invalid"),
    ("decoding.max_candidates=1", "decoding.max_candidates=1 is invalid"),
    ("decoding.choose=worst", "decoding.choose: Invalid value 'worst', expected one of [sample, best, rejection]"),
    ("decoding.samples_per_prompt=0", "decoding.samples_per_prompt=0 is invalid"),
    ("evaluation.prompts=0", "evaluation.prompts=0 is invalid"),
    ("evaluation.samples_per_prompt=0", "evaluation.samples_per_prompt=0 is invalid"),
    ("evaluation.confidence=1", "evaluation.confidence=1.0 is invalid"),
    ("evaluation.bootstrap=10", "evaluation.bootstrap=10 is invalid"),
    ("evaluation.tolerance_sd=-1", "evaluation.tolerance_sd=-1.0 is invalid"),
    ("+evaluation.policies.tuned={candidates: 2}", "evaluation.policies.tuned cannot have this name"),
    ("'+evaluation.policies={a/b: {candidates: 2}}'", "evaluation.policies=a/b is invalid; it must be up to"),
    ("+evaluation.policies.odd={candidate: 2}", "it must be a mapping of some of adapter, candidates"),
    ("comparison.methods=[magic]", "comparison.methods[0]: Invalid value 'magic'"),
    ("comparison.random_weights=0", "comparison.random_weights=0 is invalid"),
    ("comparison.soup_steps=0", "comparison.soup_steps=0 is invalid"),
    ("tracking.completions_every=0", "tracking.completions_every=0 is invalid"),
    ("tracking=carrier_pigeon", "tracking/carrier_pigeon is unknown; use one of none, tensorboard"),
    ("launch.processes=0", "launch.processes=0 is invalid"),
    ("launch.memory_gb=inf", "launch.memory_gb=inf is invalid"),
    ("launch.memory_gb=-80", "launch.memory_gb=-80.0 is invalid"),
    ("mode=alternating", "mode/alternating is unknown; use one of dpo, published"),
    ("mode.rounds=2", "The setting mode.rounds is unknown; the settings here are name, reward_models"),
    ("mode.reward_models=everywhere", "mode.reward_models: Invalid value 'everywhere'"),
    ("mode=sequential mode.rounds=0", "mode.rounds=0 is invalid"),
    ("mode=sequential mode.tolerance=-1", "mode.tolerance=-1.0 is invalid"),
    ("mode=sequential mode.visit_episodes=0", "mode.visit_episodes=0 is invalid"),
    ("mode=sequential mode.order=[judge]", "mode.order=judge is invalid; it must name each of"),
    ("mode=sequential mode.order=[vowels,vowels]", "mode.order=vowels,vowels is invalid"),
    ("mode=scalarized", "mode.weights={} is invalid"),
    ("mode=scalarized +mode.weights.vowels=-1", "mode.weights.vowels=-1.0 is invalid"),
    ("mode=scalarized +mode.weights.humour=1", "mode.weights names humour, which has no reward"),
    ("mode=scalarized +mode.weights.vowels=1 mode.kl=0", "mode.kl=0.0 is invalid"),
    ("mode=published mode.kl_coef=0", "mode.kl_coef=0.0 is invalid"),
    ("mode=dpo mode.beta=0", "mode.beta=0.0 is invalid"),
    ("palette=hhh_99", "palette/hhh_99 is unknown; use one of custom"),
    ("model=gpt_9", "model/gpt_9 is unknown; use one of"),
    ("rewards=[joy]", "rewards/joy is unknown; use one of brief"),
    ("experiment=mine", "experiment/mine is unknown; use one of own, playground"),
    ("rewards=[humor", "no viable alternative at input '[humor'"),
    ("=3", "=3 has no setting's name; write name=value"),
]
PALETTES = [
    ("+palette.quantiles.humour=0.6", "has a target for humour, which has no reward (rewards: vowels, judge"),
    ("palette.quantiles.vowels=2", "the quantile 2.0 of value 'vowels' is outside [0, 1]: write 80 % as 0.8"),
    ("palette.quantiles.vowels=-0.1", "the quantile -0.1 of value 'vowels' is outside"),
    ("palette.quantiles.vowels=nan", "the quantiles of value 'vowels' is nan"),
    ("palette.quantiles.vowels=high", "palette.quantiles.vowels: Value 'high'"),
    ("palette.quantile.vowels=0.5", "The setting palette.quantile is unknown; the settings here are name, quantiles"),
    ("+palette.sd.vowels=0.5", "vowels has a target in palette.quantiles and in palette.sd; keep one of them."),
    ("+palette.sd.judge=inf", "the sd of value 'judge' is inf"),
    ("+palette.absolute.judge=nan", "the absolute of value 'judge' is nan"),
    ("+palette.absolute.judge=1e9", "no re-weighting of the base samples"),
    ("+palette.relative_gain.judge=0.1", "palette.relative_gain is for scores in nats, not for judge"),
    ("+palette.relative_gain_probability.judge=0.1", "palette.relative_gain_probability is for scores in probability"),
    ("~palette.quantiles.vowels", "The palette names no value; give a target"),
    ("+rewards.vowels.high=1 ~palette.quantiles.vowels +palette.absolute.vowels=2", "but its score is between"),
    ("+rewards.judge.output=log_probability +palette.relative_gain.judge=-1", "is not above -1"),
    ("palette.quantiles=3", "palette.quantiles: Cannot assign int to Dict"),
]
SCORES = [
    (
        "+rewards.third=foo",
        "rewards.third=foo is invalid; write its settings, for example rewards.third={kind: ",
    ),
    ("+rewards.kl={kind: length}", "rewards.kl cannot have this name, because tables of responses have a column kl"),
    ("+rewards.candidates={kind: length}", "rewards.candidates cannot have this name"),
    ("'+rewards={a/b: {kind: length}}'", "rewards=a/b is invalid; it must be up to 100 letters, digits, _, -"),
    ("+rewards.third={}", "rewards.third.kind=None is unknown; use one of classifier, coherence"),
    ("+rewards.third={kind: clasifier}", "rewards.third.kind=clasifier is unknown"),
    ("+rewards.third={kind: [function]}", "rewards.third.kind=['function'] is unknown"),
    ("+rewards.third={kind: classifier}", "rewards.third.path is missing; kind classifier requires it"),
    ("+rewards.third={kind: classifier, path: x, lable: 1}", "rewards.third.lable is unknown"),
    ("+rewards.third={kind: classifier, path: /no/such}", "rewards.third.path=/no/such does not exist"),
    ("+rewards.third={kind: classifier, path: 5}", "rewards.third.path=5 is invalid; it must be a text"),
    ("+rewards.judge.label=7", "has 2 classes"),
    ("+rewards.judge.label=-1", "rewards.judge.label=-1 is invalid"),
    ("+rewards.judge.output=logits", "rewards.judge.output=logits is unknown; use one of logit"),
    ("+rewards.judge.sign=0", "rewards.judge.sign=0 is invalid; it must be a factor other than 0"),
    ("+rewards.judge.sign=nan", "rewards.judge.sign=nan is invalid; it must be a finite number"),
    ("+rewards.judge.sign=up", "rewards.judge.sign='up' is invalid; it must be a number"),
    ("'+rewards.judge.template=\"{question}\"'", "its fields are {prompt} and {response}"),
    ("+rewards.judge.max_tokens=0", "rewards.judge.max_tokens=0 is invalid"),
    ("+rewards.judge.batch_tokens=0", "rewards.judge.batch_tokens=0 is invalid"),
    ("+rewards.judge.dtype=float99", "rewards.judge.dtype=float99 is unknown; use one of auto"),
    ("rewards.judge.path={model}", "has no weights for"),
    ("rewards.judge.path={tmp}", "cannot be loaded as a classifier"),
    ("rewards.vowels.target=tests.worlds:nothing", "tests.worlds:nothing cannot be imported"),
    ("rewards.vowels.target=nowhere", "nowhere cannot be imported"),
    ("rewards.vowels.target=os:system", "target=os:system names code that is neither in the current folder"),
    ("rewards.vowels.target=subprocess:check_output", "set MAPFT_TRUST=subprocess if you trust it"),
    ("+rewards.third={_target_: builtins.eval}", "target=builtins:eval names code"),
    ("+rewards.vowels.timeout=0", "timeout=0 is invalid"),
    ("+rewards.vowels.high=tall", "rewards.vowels.high='tall' is invalid; it must be a number"),
    ("rewards.vowels.target=tests.worlds:broken", "is nan for response 2"),
    ("rewards.vowels.target=tests.test_bad_input:too_few", "returned numbers of shape (1,) for"),
    ("rewards.vowels.target=tests.test_bad_input:words", "could not convert string to float"),
    ("rewards.vowels.target=tests.test_bad_input:nothing", "returned numbers of shape () for"),
    ("rewards.vowels.target=tests.test_bad_input:away", "raised ConnectionError: the judge is away"),
    ("rewards.vowels.target=tests.test_bad_input:endless", "'vowels' is inf for response 0"),
    ("+rewards.third={kind: remote, url: nowhere}", "rewards.third.url=nowhere is not valid"),
    ("+rewards.third={kind: remote, url: 'ftp://x/score/v'}", "url=ftp://x/score/v is not valid"),
    (
        "+rewards.third={kind: remote, url: 'http://127.0.0.1:9/score/v', retries: 0}",
        "returned no scores in 1 attempt (",
    ),
    (
        "+rewards.third={kind: remote, url: 'http://x', batch: 0}",
        "rewards.third.batch=0 is invalid",
    ),
    (
        "+rewards.third={kind: keywords, pattern: '('}",
        "pattern='(' is invalid; it must be a regular expression (missing )",
    ),
    ("+rewards.third={kind: length, words: -1}", "rewards.third.words is unknown; the settings of kind length are"),
    (
        "+rewards.third={kind: format, schema: /no/such.json}",
        "schema='/no/such.json' is invalid; it must be a mapping",
    ),
    ("+rewards.third={kind: perplexity, path: /no/such}", "rewards.third.path=/no/such does not exist"),
    ("+rewards.third={kind: coherence, path: /no/such}", "rewards.third.path=/no/such does not exist"),
    (
        "+rewards.third={kind: diversity, orders: many}",
        "rewards.third.orders='many' is invalid; it must be a list",
    ),
]
MODELS = [
    ("model.path=/no/such/model", "model.path=/no/such/model does not exist"),
    ("model.path={empty}", "cannot be loaded"),
    ("model.path={no_weights}", "cannot be loaded as a causal language model"),
    ("model.path={torn}", "cannot be loaded as a causal language model"),
    ("model.path={bad_config}", "model.path="),
    ("model.path={no_tokenizer}", "The tokenizer of model.path="),
    ("model.path={judge}", "has no weights for"),
    ("model.path={pickled}", "cannot be loaded as a causal language model"),
    ("model.adapter=/no/such/adapter", "model.adapter=/no/such/adapter does not exist"),
    ("model.adapter={empty}", "cannot be loaded as an adapter of the model"),
    ("model.adapter={model}", "cannot be loaded as an adapter of the model"),
    ("model.attn_implementation=magic", 'Specified `attn_implementation="magic"` is not supported'),
    ("adapter.target_modules=nothing_like_it", "adapter.target_modules=nothing_like_it does not fit"),
]
# What the prompt file holds, its ending, and words of the sentence.
PROMPTS = [
    ("jsonl", "", "has 0 distinct prompts; give at least 2, one for training and one for evaluation"),
    ("jsonl", '{"question": "one?"}\n', "has 1 distinct prompts"),
    ("jsonl", '{"question": "one?"}\n' * 3, "has 1 distinct prompts"),
    ("jsonl", '{"question": "one?"}\n{"question": ', "Line 2 of"),
    ("jsonl", '{"question": "one?"}\n[1, 2]\n', "Line 2 of {path} is a list"),
    ("jsonl", '{"question": "one?"}\n7\n', "is a int"),
    ("jsonl", '{"quest": "one?"}\n', "has no column 'question' (it has quest)"),
    ("jsonl", '{"question": ""}\n{"question": "two?"}\n', "The prompt in row 1 of"),
    ("jsonl", '{"question": "  "}\n{"question": "two?"}\n', "The prompt in row 1 of"),
    ("jsonl", '{"question": null}\n{"question": "two?"}\n', "is None; it must be a non-empty text"),
    ("jsonl", '{"question": 5}\n{"question": "two?"}\n', "is 5; it must be a non-empty text"),
    ("jsonl", '{"question": [{"role": "user"}]}\n', "of messages with role and content"),
    ("jsonl", '{"question": [{"role": "user", "content": "a?"}]}\n{"question": "b?"}\n', "mixes texts and lists"),
    ("jsonl", b"\xff\xfe\x00", "is not UTF-8"),
    (
        "jsonl",
        "".join(f'{{"question": "{"word " * n}"}}\n' for n in (900, *range(1, 20))),
        "A prompt of",
    ),
    ("csv", "", "has 0 distinct prompts"),
    ("csv", "question\nWhy, then?\nWho, then?\n", "Line 2 of {path} has 2 fields and its header 1; put texts"),
    ("csv", "question,id\nWhy?,1\nWho, then?,2\n", "Line 3 of {path} has 3 fields and its header 2; put texts"),
    ("csv", "question,id\nWhy?,1\nWho?\n", "Line 3 of {path} has 1 fields and its header 2; put texts"),
    ("csv", "question,question\nWhy?,Who?\n", "more than one column 'question'; give every column its own name"),
    ("csv", 'question\n"Why" then?\n', "cannot be read as csv in UTF-8: "),
    ("csv", "other\none?\ntwo?\n", "has no column 'question'"),
    ("csv", 'question\n"one?\n', "cannot be read as csv"),
    ("parquet", b"not a parquet file", "cannot be read as parquet"),
    ("txt", "one?\ntwo?\n", "ends in '.txt'; use a .jsonl, .csv or .parquet file"),
]
# A file of scores as `mapft ui` reads it.
SCORE_FILES = [
    ("csv", "", "no columns"),
    ("csv", "prompt_id,a\n", "the score matrix is empty"),
    ("csv", "a,b\n1,2\n", "has no column prompt_id, only a, b"),
    ("csv", "prompt_id\n1\n", "names no value"),
    ("csv", "prompt_id,a,a\n0,1,2\n", "more than one column named a"),
    ("csv", "prompt_id,a\n0,1,2\n", "row 0 (counted from 0) of"),
    ("csv", "prompt_id,a\n0,\n", "is nan"),
    ("csv", "prompt_id,a\n0,nan\n", "is nan"),
    ("csv", "prompt_id,a\n0,-inf\n", "is -inf"),
    ("csv", "prompt_id,a\n0,1e999\n", "is inf"),
    ("csv", "prompt_id,a\n0,<script>\n", "column 'a' of"),
    ("csv", "prompt_id,a\n0.5,1\n", "column 'prompt_id' of"),
    ("csv", "prompt_id,a\n99999999999999999999,1\n", "column 'prompt_id' of"),
    ("csv", "prompt_id,\n0,1\n", "cannot name a value"),
    ("csv", b"prompt_id,a\n0,\xff\n", "is not a csv file in UTF-8"),
    ("parquet", b"PAR1", "is not a readable parquet file"),
    ("json", "{}", "is neither a run folder nor a .csv or .parquet file of scores"),
]
# What somebody has done to a file of a finished run, and words of the sentence.
DAMAGED = [
    ("config.json", b"", "config.json is invalid"),
    ("config.json", b'{"fingerprint": ', "config.json is invalid"),
    ("samples.parquet", b"PAR1", "samples.parquet is invalid"),
    ("scores.parquet", b"", "scores.parquet is invalid"),
    ("scores.parquet", pd.DataFrame({"prompt_id": [0], "other": [1.0]}).to_parquet(), "scores.parquet is invalid"),
    ("solution.json", b"[1]", "solution.json is invalid"),
    ("solution.json", b'{"solution": {}}', "solution.json is invalid"),
    ("training.json", b"{", "training.json is invalid"),
    ("evaluation.json", b"{", "evaluation.json is invalid"),
    ("adapter/adapter_model.safetensors", b"\x00" * 40, "cannot be loaded as an adapter of the model"),
]
COMMANDS = [
    (["align"], "The command 'align' is unknown; use one of run, sample"),
    (["plann"], "export, plan, dashboard, settings, metrics, doctor, launch, pareto, ui, serve-rewards."),
    (["doctor", "now"], "unrecognized arguments: now; see mapft doctor --help"),
    (["metrics", "kl"], "unrecognized arguments: kl; see mapft metrics --help"),
    (["settings", "colour"], "The group colour is unknown; use one of run, model, adapter"),
    (["plan", "--json"], "the option --json is unknown; see mapft plan --help"),
    (["run", "--multi"], "the option --multi is unknown; see mapft run --help"),
    (["run", "--cfg", "everything"], "invalid choice: 'everything'"),
    (["decode", "decoding.prompts=/no/such.jsonl"], "decoding.prompts=/no/such.jsonl does not exist"),
    (["ui", "/" + 5000 * "a"], "is too long a name for a file; choose a shorter one"),
    (["ui", "/no/such.csv", "--port", "²"], "argument --port: ² is invalid; give a number from 1 to 65535"),
    (["ui", "--port", "99999"], "argument --port: 99999 is invalid; give a number from 1 to 65535"),
    (["ui", "/no/such.csv", "--prot", "8000"], "unrecognized arguments: --prot 8000"),
    (["ui", "/no/such.csv"], "/no/such.csv"),
    (["ui", "/no/such.csv", "--host", "0.0.0.0"], "set a password in MAPFT_UI_PASSWORD"),
    (["launch"], "NAME is missing; use one of cpu, gpu"),
    (["launch", "tpu"], "NAME is tpu, which is unknown; use one of cpu, gpu"),
    (["launch", "cpu", "--processes"], "--processes has no value"),
    (["launch", "cpu", "--processes", "0"], "--processes 0 is invalid; give a number of at least 1"),
    (["launch", "cpu", "--processes", "²"], "--processes ² is invalid"),
    (["launch", "cpu", "--precision", "fp7"], "--precision fp7 is unknown; use one of no, fp16, bf16"),
    (["launch", "cpu", "palette=hhh_60", "x"], "palette=hhh_60 is before --, where options are"),
    (["pareto"], "the following arguments are required: folder"),
    (["pareto", "/no/such/folder"], "/no/such/folder is not a folder"),
    (["serve-rewards", "rewards=[]", "port=0"], "rewards is empty; name at least one"),
    (["serve-rewards", "rewards=null"], "rewards=null leaves the group rewards without a file"),
    (["serve-rewards", "+colour=red"], "The setting colour is unknown; the settings here are rewards, host, port"),
    (["serve-rewards", "port=99999"], "port=99999 is invalid; give a number from 1 to 65535"),
    (["serve-rewards", "port=high"], "port=high is invalid"),
    (["serve-rewards", "rewards=[joy]"], "rewards/joy is unknown; use one of brief"),
    (["plan", "launch=tpu"], "launch/tpu is unknown; use one of cpu, ddp"),
]


def too_few(prompts, completions, **_):
    return [1.0]


def words(prompts, completions, **_):
    return ["good"] * len(completions)


def nothing(prompts, completions, **_):
    return None


def away(prompts, completions, **_):
    raise ConnectionError("the judge is away")


def endless(prompts, completions, **_):
    return [float("inf")] * len(completions)


@dataclass
class Place:
    """A world, broken variants of its model, and a folder of runs with one that is finished."""

    names: dict[str, Path]
    output: Path
    run: Path
    overrides: list[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    world = worlds.build(folder / "world")
    names = world | {"tmp": folder}
    for name in ("empty", "no_weights", "torn", "bad_config", "no_tokenizer", "pickled"):
        names[name] = folder / name
        shutil.copytree(world["model"], folder / name)
    shutil.rmtree(folder / "empty")
    (folder / "empty").mkdir()
    weights = folder / "torn/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (folder / "no_weights/model.safetensors").unlink()
    (folder / "pickled/model.safetensors").rename(folder / "pickled/pytorch_model.bin")
    (folder / "bad_config/config.json").write_text("{")
    for path in [*(folder / "no_tokenizer").glob("tokenizer*"), *(folder / "no_tokenizer").glob("special*")]:
        path.unlink()
    run = folder / "runs" / "run"
    overrides = own(world, folder / "runs", *SMALL, "evaluation.bootstrap=100")
    assert main(["run", *overrides, f"run_dir={run}"]) == 0
    return Place(names, folder / "runs", run, overrides)


@pytest.fixture
def refused(place, capfd):
    """refused(command, expected): the command is refused in one sentence, and the finished run is as it was."""

    def check(command: list[str], expected: str) -> None:
        before = {path: path.read_bytes() for path in place.output.rglob("*") if path.is_file()}
        finished = {path for path in before if path.name == "evaluation.json"}
        capfd.readouterr()
        code = main(command)
        told = capfd.readouterr()
        ours = [line for line in told.err.splitlines() if line.startswith("mapft: ")]
        assert code == 2, told.err[-2000:]
        assert len(ours) == 1, told.err[-2000:]
        assert told.err.strip().splitlines()[-1] == ours[0]
        assert expected in ours[0]
        assert "Traceback" not in told.out + told.err
        assert "Predicted and realized" not in told.out
        assert {path: path.read_bytes() for path in before} == before
        assert set(place.output.rglob("evaluation.json")) == finished

    return check


def filled(text: str, place: Place) -> list[str]:
    """Overrides of one row; {model} and its like are folders."""
    pieces = re.findall(r"'[^']*'(?=\s|$)|\S+(?:=\{[^ ].*\}$)|\S+", text)
    return [re.sub(r"\{(\w+)\}", lambda m: str(place.names.get(m[1], m[0])), piece.strip("'")) for piece in pieces]


@pytest.mark.parametrize(("text", "expected"), SETTINGS + PALETTES + SCORES + MODELS)
def test_settings(place, refused, text, expected):
    refused(["run", *place.overrides, *filled(text, place)], expected)


@pytest.mark.parametrize(("ending", "content", "expected"), PROMPTS)
def test_prompts(place, refused, tmp_path, ending, content, expected):
    path = tmp_path / f"prompts.{ending}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(["run", *place.overrides, f"data.path={path}"], expected.format(path=path))


@pytest.mark.parametrize(("ending", "content", "expected"), SCORE_FILES)
def test_score_files(refused, tmp_path, ending, content, expected):
    path = tmp_path / f"scores.{ending}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(["ui", str(path)], expected)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pd.array(["x", "y"]), "string but must hold numbers"),
        (np.array([1.0, np.nan]), "is nan"),
        (np.array([True, False]), "has type bool but must"),
        (np.array([1 + 2j, 0]).astype(str), "but must hold numbers"),
    ],
)
def test_parquet_of_scores(refused, tmp_path, column, expected):
    pd.DataFrame({"prompt_id": [0, 1], "a": column}).to_parquet(tmp_path / "scores.parquet")
    refused(["ui", str(tmp_path / "scores.parquet")], expected)


@pytest.mark.parametrize(("name", "content", "expected"), DAMAGED)
def test_damaged_runs(place, refused, tmp_path, name, content, expected):
    run = tmp_path / "run"
    shutil.copytree(place.run, run)
    (run / name).write_bytes(content)
    if name.startswith("adapter"):
        (run / "evaluation.json").unlink()
    if name.startswith("samples"):  # they are read to be scored
        (run / "scores.parquet").unlink()
    refused(["run", *place.overrides, f"run_dir={run}"], expected)
    assert (run / name).read_bytes() == content, "what is damaged is for the user to look at"


def test_the_remedy_for_a_damaged_table_works(place, refused, tmp_path):
    """The run's copy is gone and the cache's is damaged; moved away as the message says, it is sampled again."""
    output = tmp_path / "runs"
    shutil.copytree(place.output, output)
    overrides = [*place.overrides, f"output={output}", f"run_dir={output / 'run'}"]
    [table] = output.glob("cache/samples-*/data.parquet")
    before = table.read_bytes()
    table.write_bytes(before[: len(before) // 2])
    (output / "run" / "samples.parquet").unlink()
    refused(["sample", *overrides], f"{table} is invalid")
    table.rename(tmp_path / "moved.parquet")
    assert main(["sample", *overrides]) == 0
    assert table.read_bytes() == before


def test_a_run_folder_of_other_settings(place, refused):
    refused(["run", *place.overrides, f"run_dir={place.run}", "seed=5"], "belongs to a run with other settings")


def test_folders_that_are_files(place, refused, tmp_path):
    (tmp_path / "file").write_text("precious")
    refused(["run", *place.overrides, f"run_dir={tmp_path / 'file'}"], str(tmp_path / "file"))
    refused(["run", *place.overrides, f"output={tmp_path / 'file'}"], str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "precious"


def test_an_adapter_of_another_shape(place, refused, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(place.run / "adapter", adapter)
    import torch

    save_file({"base_model.model.strange.lora_A.weight": torch.zeros(2, 2)}, adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["strange"]}))
    refused(["run", *place.overrides, f"model.adapter={adapter}"], "cannot be loaded as an adapter of the model")


@pytest.mark.parametrize(("command", "expected"), COMMANDS)
def test_commands(refused, command, expected, monkeypatch):
    monkeypatch.delenv("MAPFT_UI_PASSWORD", raising=False)
    refused(command, expected)
