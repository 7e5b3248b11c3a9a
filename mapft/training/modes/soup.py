"""Baseline: rewarded soup (Rame et al., 2023, arXiv 2306.04488), the average of adapters trained on one value each."""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mapft.config import ModelConfig
from mapft.config.run_folder import RunFolder
from mapft.training.modes.scalarized import Scalarized
from mapft.utils.errors import UserError
from mapft.utils.files import TEMPORARY


@dataclass(kw_only=True)
class Soup(Scalarized):
    """The average of single-value adapters with the given weights; each adapter is a run of mode scalarized."""

    def check(self, config: Any, targets: Collection[str]) -> None:
        """As `Scalarized`; UserError for DoRA."""
        super().check(config, targets)
        if config.adapter.use_dora:
            raise UserError(
                "adapter.use_dora=true does not work with mode=soup, because an average of DoRA adapters is not a DoRA "
                "adapter; set it to false."
            )

    def train(self, inputs: Any) -> dict[str, float] | None:
        """adapter/ in the run folder; the single-value runs are trained in their own folders."""
        from accelerate import PartialState

        single = {name: Scalarized(name="scalarized", weights={name: 1.0}, kl=self.kl) for name in self.averaged}
        adapters = {name: inputs.train_variant(mode) for name, mode in single.items()}
        if PartialState().is_main_process and not inputs.folder.adapter.exists():
            average(inputs.config.model, adapters, self.weights, inputs.folder)
        return None

    def scored_responses(self, total_episodes: int, pilot: int, folder: Any) -> int:
        """One training per averaged value."""
        return len(self.averaged) * total_episodes

    @property
    def averaged(self) -> list[str]:
        """The values with a weight above 0."""
        return [name for name, weight in self.weights.items() if weight]


def average(model: ModelConfig, adapters: Mapping[str, Path], weights: Mapping[str, float], folder: RunFolder) -> None:
    """folder.adapter changes the base's weights by sum_i w_i delta_i, where adapter i changes them by delta_i.

    weights: normalised to sum 1. Exact: low-rank factors are concatenated, so the rank is the sum of the ranks.
    """
    from peft import PeftModel

    from mapft.sampling.models import load_policy

    policy: Any = None
    base, _ = load_policy(replace(model, adapter=None))
    for name, adapter in adapters.items():
        if policy is None:
            policy = PeftModel.from_pretrained(base, str(adapter), name)
        else:
            policy.load_adapter(str(adapter), name)
        policy.peft_config[name].use_rslora = False  # the factors of an average include the scale
    _check_parts(policy, list(adapters))
    total = sum(weights[name] for name in adapters)
    shares = [weights[name] / total for name in adapters]
    policy.add_weighted_adapter(list(adapters), shares, "soup", combination_type="cat")
    temporary = folder.path / f".{folder.adapter.name}{TEMPORARY}"
    policy.save_pretrained(str(temporary), selected_adapters=["soup"])
    (temporary / "soup").rename(folder.adapter)
    shutil.rmtree(temporary)


def _check_parts(policy: Any, names: list[str]) -> None:
    """UserError for an adapter that has more than the low-rank factors that are averaged."""
    from mapft.utils.consistency import agree, difference, own_log_probs

    for name in names:
        policy.set_adapter(name)
        adapter_N = own_log_probs(policy)
        policy.add_weighted_adapter(names, [float(other == name) for other in names], "part", combination_type="cat")
        policy.set_adapter("part")
        part_N = own_log_probs(policy)
        policy.set_adapter(name)
        policy.delete_adapter("part")
        if not agree(adapter_N, part_N, policy):
            raise UserError(
                f"The adapter {name} cannot be averaged, because its low-rank factors alone differ from it by "
                f"{difference(adapter_N, part_N):.2g} nats per token; train it as LoRA without additions such as DoRA."
            )
