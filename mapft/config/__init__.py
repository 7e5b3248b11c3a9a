"""The settings of a run as plain dataclasses, one file per group of conf/.

A default, a range and a meaning stand once, in the dataclass field; `mapft settings` prints them. Files in conf/ hold
only what differs. A value out of range is refused here, before any model is loaded.
"""

from mapft.config.adapter import AdapterConfig
from mapft.config.batches import Batches
from mapft.config.comparison import ComparisonConfig, Method
from mapft.config.config import Config
from mapft.config.data import DataConfig, Extract, TooLong
from mapft.config.decoding import LEAST_DRAWS, Choose, DecodingConfig
from mapft.config.dual import DualConfig, EstimatorName, OnInfeasible
from mapft.config.engine import EngineConfig
from mapft.config.evaluation import BASE, TUNED, EvaluationConfig, PolicyConfig
from mapft.config.identity import fingerprint, identity
from mapft.config.launch import LaunchConfig
from mapft.config.mode import ModeConfig, Residency
from mapft.config.model import Dtype, ModelConfig, Quantization
from mapft.config.palette import PaletteConfig
from mapft.config.refine import RefineConfig
from mapft.config.sampling import SamplingConfig
from mapft.config.tracking import TrackingConfig
from mapft.config.trainer import PPOSettings, Schedule, TrainerConfig, Trunk

__all__ = [
    "BASE",
    "LEAST_DRAWS",
    "TUNED",
    "AdapterConfig",
    "Batches",
    "Choose",
    "ComparisonConfig",
    "Config",
    "DataConfig",
    "DecodingConfig",
    "Dtype",
    "DualConfig",
    "EngineConfig",
    "EstimatorName",
    "EvaluationConfig",
    "Extract",
    "LaunchConfig",
    "Method",
    "ModeConfig",
    "ModelConfig",
    "OnInfeasible",
    "PPOSettings",
    "PaletteConfig",
    "PolicyConfig",
    "Quantization",
    "RefineConfig",
    "Residency",
    "SamplingConfig",
    "Schedule",
    "TooLong",
    "TrackingConfig",
    "TrainerConfig",
    "Trunk",
    "fingerprint",
    "identity",
]
