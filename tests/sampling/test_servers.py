"""Servers that a run starts (engine.python). Truth: their command line, and a Python without vLLM."""

import itertools
import sys

import pytest
from peft import LoraConfig

from mapft.config import AdapterConfig, EngineConfig, ModelConfig
from mapft.config.model import Dtype
from mapft.sampling.engines.servers import LocalServers, command
from mapft.sampling.engines.vllm import make_vllm
from mapft.utils.errors import UserError
from tests.configs import make_config

URL = "http://127.0.0.1:9"  # nothing listens there


def config(folder, python: str = sys.executable, **groups):
    groups = {"model": ModelConfig(path=str(folder), dtype=Dtype.bfloat16)} | groups
    settings = {"urls": [URL]} | groups.pop("engine", {})
    return make_config(engine=EngineConfig(name="vllm", python=python, **settings), **groups)


def options(words: list[str]) -> dict[str, str]:
    """Pairs, of which the last one wins."""
    return dict(itertools.pairwise(words))


def test_the_command_line_has_the_run_s_model_precision_address_and_rank(tmp_path):
    words = command("http://[::1]:8123", config(tmp_path, adapter=AdapterConfig(r=17)))
    assert words[:4] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enable-lora"]
    expected = {
        "--model": str(tmp_path),
        "--served-model-name": "base",
        "--dtype": "bfloat16",
        "--kv-cache-memory-bytes": "4000000000",
        "--host": "::1",
        "--port": "8123",
        "--max-lora-rank": "32",
    }
    assert options(words).items() >= expected.items()


def test_the_rank_is_that_of_the_adapter_from_which_training_starts(tmp_path):
    LoraConfig(r=40).save_pretrained(tmp_path)
    model = ModelConfig(path=str(tmp_path), adapter=str(tmp_path))
    assert options(command(URL, config(tmp_path, model=model)))["--max-lora-rank"] == "64"


def test_options_of_the_user_come_last(tmp_path):
    more = ["--max-lora-rank", "128", "--enforce-eager"]
    words = command(URL, config(tmp_path, engine={"options": more}))
    assert words[-3:] == more


def test_a_server_on_another_machine_cannot_be_started(tmp_path):
    with pytest.raises(UserError, match=r"engine.urls has http://gpu2:8000; use http://localhost:PORT, or start all"):
        LocalServers(config(tmp_path, engine={"urls": ["http://localhost:1", "http://gpu2:8000"]}))


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("/no/such/python", "engine.python=/no/such/python cannot be started"),
        (sys.executable, "has ended; correct what its log .* reports, which ends with: .*No module named"),
    ],
)
def test_a_python_without_vllm_is_one_sentence(tmp_path, python, message):
    engine = make_vllm(config(tmp_path, python))
    with pytest.raises(UserError, match=message):
        engine.load(None)


def test_only_the_main_process_starts_servers(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert make_vllm(config(tmp_path, "/no/such/python")).load(None) == ""
