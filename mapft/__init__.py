"""mapft: Multi-Human-Value Alignment Palette (MAP, arXiv 2410.19198) on Hugging Face TRL.

    prompts -> base samples -> score matrix -> palette c -> lambda -> {PPO | decoding} -> realized levels -> report

Importing this package imports neither torch nor transformers.
"""

from importlib.metadata import version

__version__ = version("mapft")
