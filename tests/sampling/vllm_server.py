"""Real vLLM servers on the CPU, with the Python that MAPFT_VLLM names (launch/test.sh --engines)."""

import os
import socket
from pathlib import Path

from mapft.config import Config, EngineConfig, ModelConfig
from mapft.config.model import Dtype
from tests.configs import make_config

PYTHON = os.environ.get("MAPFT_VLLM", "")


def served(model: Path, count: int = 1, tokens: int = 64) -> Config:
    """A run's settings with servers at free ports. tokens: longest sequence."""
    sockets = [socket.socket() for _ in range(count)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    urls = [f"http://127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    for free in sockets:
        free.close()
    options = ["--enforce-eager", "--max-num-seqs", "64", "--max-model-len", str(tokens)]
    engine = EngineConfig(name="vllm", urls=urls, python=PYTHON, cache_gb=0.5, options=options)
    return make_config(model=ModelConfig(path=str(model), dtype=Dtype.float32), engine=engine)
