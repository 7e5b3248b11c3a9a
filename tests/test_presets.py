"""Every preset composes and runs on tiny random models of its own architecture; only paths are overridden.

Truth: what the datasets' rows hold; the settings of the paper (section 3.1).
"""

import gzip
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file

from mapft.cli import main
from mapft.config import DataConfig, Extract
from mapft.rewards import KINDS, parse
from mapft.sampling.prompts import load_prompts
from mapft.utils.paths import shipped
from tests.rewards import tiny

VALUES = ("humor", "positive", "helpful", "harmless", "diversity", "coherence", "perplexity")
DIALOGUES = [
    f"\n\nHuman: What do you know of {thing}? \n\nAssistant: Little.\n\nHuman: And of {thing} twice?\n\nAssistant: No."
    for thing in ("gardens", "old trains", "bread", "rain", "a bicycle", "neighbours", "Mondays", "letters")
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The base model of the paper has its weights in a pickle file alone."""
    folder = tmp_path_factory.mktemp("models")
    policies = tiny.policies(folder)
    pickled = Path(policies["opt_1_3b"])
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    return tiny.presets(folder), policies


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Folders laid out as the two datasets are on the Hub."""
    folder = tmp_path_factory.mktemp("datasets")
    (folder / "hh" / "harmless-base").mkdir(parents=True)
    for split, rows in (("train", DIALOGUES[:2]), ("test", DIALOGUES)):
        with gzip.open(folder / "hh" / "harmless-base" / f"{split}.jsonl.gz", "wt") as file:
            file.write("".join(json.dumps({"chosen": row, "rejected": row}) + "\n" for row in rows))
    (folder / "imdb").mkdir()
    reviews = [f"Review {n}: this film about gardens and trains is not so bad." for n in range(12)] + ["Too short."]
    for split in ("train", "test"):
        pd.DataFrame({"text": reviews, "label": 1}).to_parquet(folder / "imdb" / f"{split}-00000-of-00001.parquet")
    return folder


def test_the_papers_questions_are_the_first_of_each_dialogue(datasets):
    data = DataConfig(
        path=str(datasets / "hh"), subset="harmless-base", split="test", column="chosen", extract=Extract.first_question
    )
    prompts = [row.prompt for row in load_prompts(data)]
    assert prompts[:2] == ["What do you know of gardens?", "What do you know of old trains?"]
    assert len(prompts) == 8


def test_long_prompts_are_reported(models, datasets, tmp_path, capfd):
    overrides = ["experiment=own", "model=opt_1_3b", "data=hh_harmless", "rewards=[brief]", "palette=custom"]
    overrides += [f"model.path={models[1]['opt_1_3b']}", f"data.path={datasets / 'hh'}", "+palette.sd.brief=0.1"]
    overrides += ["data.max_prompt_tokens=10", "sampling.max_new_tokens=4", f"output={tmp_path}"]
    assert main(["sample", *overrides]) == 0
    message = "[1-8] of 8 prompts are longer than data.max_prompt_tokens=10: texts are cut"
    assert re.search(message, capfd.readouterr().out)


def test_the_papers_reviews_are_beginnings_of_20_to_30_characters(datasets):
    data = DataConfig(path=str(datasets / "imdb"), split="test", column="text", extract=Extract.beginning)
    prompts = [row.prompt for row in load_prompts(data)]
    assert len(prompts) == 12
    assert all(f"Review {n}: this film about gardens and".startswith(prompt) for n, prompt in enumerate(prompts))
    assert {len(prompt) for prompt in prompts} <= set(range(20, 31))
    assert len({len(prompt) for prompt in prompts}) > 3
    assert [row.prompt for row in load_prompts(data)] == prompts


@pytest.mark.parametrize(
    ("model", "data", "values", "palette"),
    [
        ("opt_1_3b", "hh_harmless", VALUES, "hhh_50"),
        ("llama2_7b_chat", "hh_harmless", ("helpful", "humor", "harmless"), "hhh_60"),
        ("qwen2_5_1_5b_instruct", "imdb", ("positive", "helpful", "harmless"), "phh_50"),
    ],
)
def test_presets_run_from_samples_to_lambda(models, datasets, tmp_path, capfd, model, data, values, palette):
    rewards, policies = models
    folder = {"hh_harmless": "hh", "imdb": "imdb"}[data]
    overrides = [
        "experiment=own",
        f"model={model}",
        f"data={data}",
        f"rewards=[{','.join(values)}]",
        f"palette={palette}",
    ]
    overrides += [f"model.path={policies[model]}", f"data.path={datasets / folder}", "dual.if_infeasible=nearest"]
    overrides += [f"rewards.{name}.path={rewards[name]}" for name in values if name in rewards and name != "perplexity"]
    overrides += [
        "sampling.max_new_tokens=6",
        "sampling.samples_per_prompt=32",
        f"run_dir={tmp_path / 'run'}",
        f"output={tmp_path}",
    ]
    assert main(["solve", *overrides, "--json"]) == 0, capfd.readouterr().err
    solution = json.loads(capfd.readouterr().out)
    assert list(solution["lam"]) == list(values)
    assert len(pd.read_parquet(tmp_path / "run/samples.parquet")["prompt"].unique()) >= 6
    assert solution["status"] == "optimal"
    scores = pd.read_parquet(tmp_path / "run/scores.parquet")
    assert list(scores.columns) == ["prompt_id", *values]
    assert (scores[list(values)].std() > 0).sum() >= len(values) - 1  # diversity of six tokens may be constant


@pytest.mark.parametrize("name", [path.stem for path in sorted(shipped("conf").glob("palette/*.yaml"))])
def test_every_palette_composes_with_its_values(name, capfd):
    first = "positive" if name.startswith("phh") else "humor"
    free = ["+palette.quantiles.humor=0.5"] if name == "custom" else []
    assert main(["run", f"rewards=[{first},helpful,harmless]", f"palette={name}", *free, "--cfg", "job"]) == 0
    assert f"name: {name}" in capfd.readouterr().out


def test_every_reward_preset_composes(capfd):
    names = [path.stem for path in sorted(shipped("conf").glob("rewards/*.yaml"))]
    required = {
        "keywords": ["rewards.keywords.pattern=x"],
        "judge": ["rewards.judge.path=x", "rewards.judge.question=x"],
        "match": ["rewards.match.column=x"],
        "remote": ["rewards.remote.url=http://x"],
        "remote_judge": [f"rewards.remote_judge.{name}=http://x" for name in ("url", "model", "question")],
    }
    given = [word for name in names for word in required.get(name, [])]
    assert main(["run", f"rewards=[{','.join(names)}]", *given, "--cfg", "job", "--resolve"]) == 0
    printed = capfd.readouterr().out
    kinds = {line.split()[1] for line in printed.splitlines() if line.strip().startswith("kind:")}
    assert kinds == set(KINDS) - {"function"}
    assert "revision: main" in Path(shipped("conf") / "rewards" / "humor.yaml").read_text()


HUMAN = {"template": "\n\nHuman: {prompt} \n\nAssistant:", "second": "{response}", "label": 0, "output": "logit"}
BOTH = {"template": "{prompt}{response}", "second": None}
PAPER = {  # section 3.1 of the paper
    "humor": ("classifier", "mohameddhiab/humor-no-humor", BOTH | {"label": 1, "output": "logit"}),
    "positive": ("classifier", "lvwerra/distilbert-imdb", BOTH | {"label": 1, "output": "probability"}),
    "helpful": ("classifier", "Ray2333/gpt2-large-helpful-reward_model", HUMAN),
    "harmless": ("classifier", "Ray2333/gpt2-large-harmless-reward_model", HUMAN),
    "diversity": (
        "diversity",
        None,
        {"measure": "product", "orders": (2, 3, 4), "template": "{prompt}{response}"},
    ),
    "coherence": ("coherence", "princeton-nlp/sup-simcse-bert-base-uncased", {}),
    "perplexity": ("perplexity", "facebook/opt-1.3b", {"template": "{prompt}{response}", "allow_pickle": True}),
}


def test_the_presets_are_the_papers():
    with initialize_config_dir(str(shipped("conf").absolute()), version_base="1.3"):
        serve = compose("serve", ["model=opt_1_3b", f"rewards=[{','.join(PAPER)}]"])
    scores = parse(OmegaConf.to_container(serve.rewards, resolve=True))
    assert list(scores) == list(PAPER)
    for name, (kind, path, settings) in PAPER.items():
        assert type(scores[name]) is KINDS[kind]
        assert getattr(scores[name], "path", None) == path
        assert {key: getattr(scores[name], key) for key in settings} == settings
        assert scores[name].sign == 1


def test_values_and_palette_that_do_not_fit_are_both_named(capfd):
    assert main(["run", "rewards=[humor,helpful]", "palette=hhh_70", "--cfg", "job"]) == 0
    assert main(["solve", "rewards=[humor,helpful]", "palette=hhh_70"]) == 2
    said = capfd.readouterr().err
    assert (
        "has a target for harmless, which has no reward (rewards: humor, helpful; palette: harmless, helpful, humor)"
        in said
    )
