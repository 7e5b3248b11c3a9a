"""The model card. Truth: huggingface_hub's own reader of its metadata, and the numbers that were put in."""

from huggingface_hub import ModelCard

from mapft.evaluation.card import model_card
from tests.evaluation.results import evaluation, value_result

CONFIG = {
    "model": {"path": "facebook/opt-1.3b", "adapter": None},
    "mode": {"name": "simultaneous"},
    "palette": {"name": "hhh: {80}"},
    "sampling": {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 50},
    "seed": 3,
}


def test_the_metadata_are_read_back(tmp_path):
    result = evaluation({"humor": value_result(), "brief": value_result(target=None, gap_sd=None)}, lam=None)
    (tmp_path / "README.md").write_text(model_card(result, CONFIG, {"torch": "2.13.0"}, "peft"), "utf-8")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "facebook/opt-1.3b"
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert set(card.data.tags) == {"mapft", "simultaneous", "peft", "alignment"}
    assert card.text.strip().startswith("# facebook/opt-1.3b, at the palette hhh: {80}")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.text.splitlines() if line[:1] == "|"]
    assert rows[2] == ["humor", "0", "1.5", "", "1.48 [1.4, 1.6]", "-0.020"]
    assert rows[3][2] == "free"
    assert "at most 50 new tokens" in card.text
    assert "torch 2.13.0, seed 3" in card.text


def test_a_baseline_and_a_base_with_an_adapter_are_described_as_such():
    config = CONFIG | {"mode": {"name": "dpo"}, "model": {"path": "base", "adapter": "our/{adapter}"}}
    text = model_card(evaluation({"a": value_result()}, aims_at_palette=False), config, {}, "transformers")
    assert "# base with the adapter our/{adapter}, at the palette" in text
    assert "trained with mode=dpo. It does not\naim at the targets" in text
