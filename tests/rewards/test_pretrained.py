"""A pretrained classifier as a score. Truth: what the texts are about.

The model is the English one of the package categorium (MIT): a BERT of 1M parameters for 27 subjects of web pages,
with weights of TensorFlow. launch/test.sh installs the package, without its dependencies.
"""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from mapft.rewards import parse

PACKAGE = importlib.util.find_spec("categorium")
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="the package categorium is not installed")
TEXTS = {
    "food": "Mix the flour, butter and sugar, bake the cake in the oven and serve the dish. A recipe for dinner.",
    "autos": "The new car has a powerful engine, automatic transmission and four wheel drive; the brakes were tested.",
    "animals": "The veterinarian feeds the dog and the cat; puppies and kittens are popular pets.",
}
NAMES = {
    "tf_bert_for_sequence_classification/": "",
    "layer_._": "layer.",
    "LayerNorm/gamma": "LayerNorm/weight",
    "LayerNorm/beta": "LayerNorm/bias",
    "embeddings/embeddings": "embeddings/weight",
    "kernel": "weight",
    "/": ".",
    ":0": "",
}  # of the weights, in TensorFlow and in PyTorch


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(folder of the model with its tokenizer, names of the classes)."""
    source = Path(PACKAGE.submodule_search_locations[0]) / "modelos" / "en"
    folder = tmp_path_factory.mktemp("subjects")
    pretrained = BertForSequenceClassification(BertConfig.from_pretrained(source / "en_hultig_model"))
    pretrained.load_state_dict(weights(source / "en_hultig_model" / "tf_model.h5"))
    pretrained.save_pretrained(folder)
    shutil.copy(source / "hultig-bert-token-uncased_en-vocab.txt", folder / "vocab.txt")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return str(folder), (source / "en_categorias.csv").read_text("utf-8-sig").split()[1:]


def weights(path):
    """{name: tensor} in PyTorch's names; its matrices are transposed."""
    import h5py

    tensors = {}

    def read(name, entry):
        if isinstance(entry, h5py.Dataset):
            tensor = torch.tensor(entry[()])
            name = name.partition("/")[2]
            for old, new in NAMES.items():
                name = name.replace(old, new)
            tensors[name] = tensor.T.contiguous() if entry.name.endswith("kernel:0") else tensor

    with h5py.File(path) as file:
        file.visititems(read)
    return tensors


def test_a_text_has_the_highest_score_of_its_own_subject(model):
    path, subjects = model
    prompts, responses = ["Write a line.", "", "Tell me more."], list(TEXTS.values())
    settings = {"kind": "classifier", "path": path, "template": "{response}", "output": "log_probability"}
    scores = np.stack(
        [
            parse({name: settings | {"label": subjects.index(name)}})[name].load(name).score(prompts, responses)
            for name in TEXTS
        ]
    )
    assert (scores.diagonal() > np.log(0.9)).all()
    assert (scores[~np.eye(3, dtype=bool)] < np.log(0.1)).all()
