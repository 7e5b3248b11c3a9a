"""The embedded default world: a tiny base policy, three tiny reward models and prompts, built on first use.

    locate("policy")                            LlamaForCausalLM folder with its tokenizer
    locate("humor" | "helpful" | "harmless")    AutoModelForSequenceClassification folders
    locate("prompts")                           jsonl file: prompt, kind ("everyday" | "dubious")
    locate("requests")                          the same questions for any chat model

To add a request, add a [[task]] to world/everyday.toml or world/dubious.toml; the world is then rebuilt on next use.
Every part is an ordinary Hugging Face folder, built on this machine from a seed, without network access.
Importing this package imports neither torch nor transformers.
"""

from .builder import build
from .cache import locate

__all__ = ["build", "locate"]
