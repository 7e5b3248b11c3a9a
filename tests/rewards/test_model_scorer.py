"""What all scores of a model share. Truth: the model called by hand; texts that differ in one part only."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mapft.rewards import parse
from mapft.rewards.model_scorer import batches_by_length
from mapft.utils.errors import UserError


def scorer(**settings):
    return parse({"v": settings})["v"].load("v")


def test_batches_contain_every_row_once_within_the_budget():
    lengths = [3, 100, 1, 50, 50, 7]
    batches = batches_by_length(lengths, 120)
    assert sorted(row for batch in batches for row in batch) == list(range(6))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 120 for batch in batches)


def test_a_long_prompt_is_cut_and_the_response_is_kept(models):
    """The last 16 tokens count: prompts that differ only before them score alike, responses do not."""
    judge = scorer(kind="classifier", path=models["judge"], label=1, max_tokens=16)
    prompts = ["why " * 50, "how " * 9 + "why " * 50, "why " * 50]
    first, same_end, other_response = judge.score(prompts, ["Yes.", "Yes.", "No!"])
    assert first == pytest.approx(same_end, abs=1e-6)
    assert abs(first - other_response) > 1e-4


@pytest.mark.parametrize(("kind", "preset"), [("classifier", "helpful"), ("perplexity",) * 2, ("coherence",) * 2])
def test_texts_over_the_positions_of_the_model_are_cut(models, kind, preset):
    """512 positions, max_tokens 4096."""
    model = scorer(kind=kind, path=models[preset], max_tokens=4096)
    assert model.max_length <= 512
    assert np.isfinite(model.score(["why " * 900 + "so?"] * 2, ["Yes ", "Yes " * 700])).all()


def test_pickled_weights_are_rejected_unless_allowed(models, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(models["humor"])
    model.config.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(models["humor"]).save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    settings = {"kind": "classifier", "path": str(tmp_path)}
    with pytest.raises(UserError, match="safetensors"):
        scorer(**settings)
    assert np.isfinite(scorer(**settings, allow_pickle=True).score(["a"], ["b"])).all()


def test_a_missing_folder_is_one_sentence():
    with pytest.raises(UserError, match="rewards.v.path=/no/such/folder does not exist"):
        scorer(kind="classifier", path="/no/such/folder")


def test_a_model_without_the_weights_of_its_role_is_rejected(models):
    with pytest.raises(UserError, match=r"has no weights for .*give a model that was trained as a classifier"):
        scorer(kind="classifier", path=models["perplexity"])


def test_a_label_out_of_range_names_the_number_of_classes(models):
    with pytest.raises(UserError, match=r"rewards.v.label=2 is out of range; .* has 2 classes"):
        scorer(kind="classifier", path=models["judge"], label=2)
