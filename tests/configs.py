"""A Config built in Python, for tests that compose none."""

from typing import Any

from mapft.config import (
    AdapterConfig,
    ComparisonConfig,
    Config,
    DataConfig,
    DecodingConfig,
    DualConfig,
    EngineConfig,
    EvaluationConfig,
    LaunchConfig,
    ModelConfig,
    PaletteConfig,
    RefineConfig,
    SamplingConfig,
    TrackingConfig,
    TrainerConfig,
)
from mapft.training.modes import Simultaneous


def make_config(**groups: Any) -> Config:
    """Groups that are not given have their defaults, except for values a and b with targets .4 and .5."""
    defaults = {
        "model": ModelConfig(path="model"),
        "adapter": AdapterConfig(),
        "data": DataConfig(path="prompts.jsonl"),
        "rewards": {"a": {}, "b": {}},
        "palette": PaletteConfig(absolute={"a": 0.4, "b": 0.5}),
        "sampling": SamplingConfig(),
        "engine": EngineConfig(),
        "dual": DualConfig(),
        "mode": Simultaneous(name="simultaneous"),
        "trainer": TrainerConfig(),
        "refine": RefineConfig(),
        "decoding": DecodingConfig(),
        "evaluation": EvaluationConfig(),
        "comparison": ComparisonConfig(),
        "tracking": TrackingConfig(),
        "launch": LaunchConfig(name="cpu"),
    }
    return Config(**defaults | groups)
