"""The model card of an adapter or a merged model: targets, realized levels, sampling settings, versions."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from huggingface_hub import ModelCard, ModelCardData

from mapft.evaluation.result import Evaluation

CARD = """---
{metadata}
---

# {base}{adapter}, at the palette {palette}

{summary}

{table}

Levels are means of raw scores over {prompts} held-out prompts; gaps are in standard deviations of the base scores.
KL to the base policy: {kl.mean:.3f} [{kl.low:.3f}, {kl.high:.3f}] nats, {kl_predicted:.3f} predicted on the pilot.
Sampling: temperature {temperature:g}, top_k {top_k}, top_p {top_p:g}, at most {max_new_tokens} new tokens; other
settings give other levels. Trained with {versions}, seed {seed}.
"""
MAP = """A policy with a target level for each of several human values, at little KL from its base policy p0, the base
model{adapter}. PPO moved it towards the MAP solution p0(y|x) exp(lambda.r(x,y)) / Z(x) (Wang et al., ICLR 2025,
arXiv 2410.19198)."""
BASELINE = """A baseline for MAP (Wang et al., ICLR 2025, arXiv 2410.19198), trained with mode={mode}. It does not
aim at the targets below."""


def model_card(evaluation: Evaluation, config: Mapping[str, Any], versions: Mapping[str, str], library: str) -> str:
    """Markdown with the Hub's metadata. config: the settings in config.json. library: peft or transformers."""
    model, mode = config["model"], config["mode"]["name"]
    adapter = f" with the adapter {model['adapter']}" if model["adapter"] else ""
    metadata = ModelCardData(
        base_model=model["path"],
        library_name=library,
        pipeline_tag="text-generation",
        tags=["mapft", mode, library, "alignment"],
    )
    text = CARD.format(
        metadata=metadata.to_yaml(),
        base=model["path"],
        adapter=adapter,
        palette=config["palette"]["name"],
        summary=(MAP if evaluation.aims_at_palette else BASELINE).format(adapter=adapter, mode=mode),
        table=_table(evaluation),
        prompts=evaluation.prompts,
        kl=evaluation.tuned.kl,
        kl_predicted=evaluation.kl_predicted,
        versions=", ".join(f"{name} {number}" for name, number in versions.items()),
        seed=config["seed"],
        **{name: config["sampling"][name] for name in ("temperature", "top_k", "top_p", "max_new_tokens")},
    )
    return str(ModelCard(text))


def _table(evaluation: Evaluation) -> str:
    rows = []
    for name, value in evaluation.values.items():
        level = value.realized
        rows.append(
            {
                "value": name,
                "base level": f"{value.base:.4g}",
                "target": "free" if value.target is None else f"{value.target:.4g}",
                "lambda": f"{evaluation.lam[name]:.4g}" if evaluation.lam else "",
                f"realized ({100 * evaluation.confidence:.0f} % interval)": (
                    f"{level.mean:.4g} [{level.low:.4g}, {level.high:.4g}]"
                ),
                "gap in sd": "" if value.gap_sd is None else f"{value.gap_sd:+.3f}",
            }
        )
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
