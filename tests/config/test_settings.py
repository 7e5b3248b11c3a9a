"""One truth for every setting: the dataclass field. Truth: the files in conf/ and the fields themselves."""

import dataclasses
import re

import pytest
import yaml

from mapft.cli import main
from mapft.commands.settings import all_groups
from mapft.config import EvaluationConfig, PolicyConfig, TrainerConfig
from mapft.config.fields import LARGEST_COUNT, Range, Settings, setting
from mapft.config.identity import plain
from mapft.ppo import PPOConfig
from mapft.training.modes import TRAINERS
from mapft.utils.errors import UserError
from mapft.utils.paths import shipped

GROUPS = all_groups()
FILES = [path for group in GROUPS for path in sorted((shipped("conf") / group).glob("*.yaml")) if group != "rewards"]


def test_every_setting_has_a_meaning():
    missing = [
        f"{selected or group}.{field.name}"
        for group, kinds in GROUPS.items()
        for selected, kind in kinds.items()
        for field in dataclasses.fields(kind)
        if not field.metadata.get("help") and not dataclasses.is_dataclass(field.type)
    ]
    assert missing == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_file_holds_only_what_differs_and_says_what_it_is_for(path):
    content, group = yaml.safe_load(path.read_text()) or {}, path.parent.name
    kind = TRAINERS[content["name"]] if group == "mode" else GROUPS[group][""]
    content.pop("defaults", None)
    defaults = {
        f.name: f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        for f in dataclasses.fields(kind)
    }
    assert set(content) <= set(defaults)
    assert {name: value for name, value in content.items() if plain(defaults[name]) == value} == {}
    assert path.read_text().startswith("# ")


def test_ppo_settings_are_declared_once():
    """A run's trainer and the library's PPOConfig inherit the same fields."""
    shared = {f.name: f for f in dataclasses.fields(TrainerConfig)}.keys() & PPOConfig.__dataclass_fields__.keys()
    own_names = {"total_episodes"} | {name for name in TrainerConfig.__annotations__ if name != "prefix"}
    for name in shared - own_names:
        assert PPOConfig.__dataclass_fields__[name].default == TrainerConfig.__dataclass_fields__[name].default, name
    assert "kl_coef" in shared - own_names


def test_settings_are_printed_with_meaning_default_range_and_unit(capsys):
    assert main(["settings", "refine"]) == 0
    printed = capsys.readouterr().out
    meaning = "PPO iterations of a window, at whose end lambda can be refined."
    assert f"refine.every\n      {meaning}\n      default 4; at least 1, or null to" in printed
    assert "default 0.02; at least 0; unit: sd" in printed
    assert main(["settings", "mode"]) == 0
    assert "mode=sequential: One value after the other" in capsys.readouterr().out
    assert main(["settings", "model"]) == 0
    printed = capsys.readouterr().out
    assert "model.path\n" in printed
    assert "none, it must be given" in printed
    assert "one of auto, float32, bfloat16, float16" in printed


def test_all_settings_are_printed(capsys):
    assert main(["settings"]) == 0
    printed = capsys.readouterr().out
    for name in ("trainer.whiten_advantages", "trainer.warmup_steps", "trainer.weight_decay", "trainer.adam_beta1"):
        assert f"  {name}\n" in printed
    assert [group for group in GROUPS if not re.search(rf"^{group}\b", printed, re.MULTILINE)] == []


@dataclasses.dataclass(kw_only=True)
class Example(Settings):
    prefix = "example"
    share: float = setting(0.5, "A share.", above=0, at_most=1)
    count: int | None = setting(3, "A count.", at_least=1, null="count all")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 0.0}, r"example.share=0.0 is invalid; it must be above 0 and at most 1\."),
        ({"share": float("nan")}, "example.share=nan is invalid"),
        ({"count": 0}, r"example.count=0 is invalid; it must be at least 1, or null to count all\."),
        ({"count": LARGEST_COUNT}, r"it must be at least 1 and below 2\^31, or null to count all\."),
    ],
)
def test_a_number_out_of_range_is_one_sentence(values, message):
    assert Example(share=1.0, count=None).count is None
    with pytest.raises(UserError, match=message):
        Example(**values)


def test_ranges():
    assert 0.5 in Range(above=0, at_most=1)
    assert 0 not in Range(above=0)
    assert str(Range()) == "a finite number"
    assert float("inf") not in Range()


def test_policies_are_settings_below_names_of_the_users():
    policies = EvaluationConfig(policies={"wide": {"candidates": 64, "choose": "best"}}).policies
    assert policies == {"wide": PolicyConfig(candidates=64, choose="best")}
    for settings, message in (
        (
            {"candidate": 1},
            "evaluation.policies.odd={'candidate': 1} is invalid; it must be a mapping of some of adapter",
        ),
        ({"candidates": "many"}, "evaluation.policies.odd.candidates: Value 'many'"),
        ({}, "neither an adapter nor candidates"),
        (7, "evaluation.policies.odd=7 is invalid"),
    ):
        with pytest.raises(UserError, match=message):
            EvaluationConfig(policies={"odd": settings})
