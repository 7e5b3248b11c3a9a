"""The model card of an adapter: what it was asked to keep, what it keeps, how it was made."""

from collections.abc import Mapping
from typing import Any

from mapft.evaluation.report import aims_at_the_palette

HEAD = """---
base_model: {base}
library_name: {library}
pipeline_tag: text-generation
tags: [mapft, {mode}, {library}, alignment]
---

# {base}{start}, at the palette {palette}

{what}

| value | base level | target | lambda | realized ({confidence:.0f} % interval) | gap in sd |
|---|---|---|---|---|---|
"""
TAIL = """
Levels are means of raw scores over {prompts} held-out prompts; gaps are in standard deviations of the base scores.
KL to the base policy: {kl:.3f} [{kl_low:.3f}, {kl_high:.3f}] nats, {kl_predicted:.3f} predicted for the pilot.
Sampling: temperature {temperature:g}, top_k {top_k}, top_p {top_p:g}, at most {max_new_tokens} new tokens; other
settings have other levels. Made with {versions}, seed {seed}.
"""


MAP = """A policy that keeps several human values at once, each at the level asked for, at little KL from its base
policy p0, the base model{start}. It is p0(y|x) exp(lambda.r(x,y)) / Z(x), the MAP solution (Wang et al., ICLR 2025,
arXiv 2410.19198), as far as PPO has reached it."""
BASELINE = """A baseline to compare MAP (Wang et al., ICLR 2025, arXiv 2410.19198) with, made by the method `{mode}`. It
does not aim at the targets below."""


def model_card(summary: Mapping[str, Any], config: Mapping[str, Any], versions: Mapping[str, str], library: str) -> str:
    """Markdown with the Hub's metadata. summary: of `summarize`; config: the run's settings; library: peft, ..."""
    confidence = 100 * summary["confidence"]
    start = f" with the adapter {config['model']['adapter']}" if config["model"]["adapter"] else ""
    mode = config["mode"]["name"]
    what = (MAP if aims_at_the_palette(summary) else BASELINE).format(start=start, mode=mode)
    head = HEAD.format(
        what=what,
        mode=mode,
        start=start,
        base=config["model"]["path"],
        palette=config["palette"]["name"],
        library=library,
        confidence=confidence,
    )
    tail = TAIL.format(
        prompts=summary["prompts"],
        kl=summary["kl"]["mean"],
        kl_low=summary["kl"]["low"],
        kl_high=summary["kl"]["high"],
        kl_predicted=summary["kl_predicted"],
        versions=", ".join(f"{name} {number}" for name, number in versions.items()),
        seed=config["seed"],
        **{name: config["sampling"][name] for name in ("temperature", "top_k", "top_p", "max_new_tokens")},
    )
    rows = [_row(name, value, (summary["lam"] or {}).get(name)) for name, value in summary["values"].items()]
    return head + "\n".join(rows) + "\n" + tail


def _row(name: str, value: Mapping[str, Any], lam: float | None) -> str:
    realized = value["realized"]
    target = "free" if value["target"] is None else f"{value['target']:.4g}"
    gap = "" if value["gap_sd"] is None else f"{value['gap_sd']:+.3f}"
    interval = f"{realized['mean']:.4g} [{realized['low']:.4g}, {realized['high']:.4g}]"
    return f"| {name} | {value['base']:.4g} | {target} | {'' if lam is None else f'{lam:.4g}'} | {interval} | {gap} |"
