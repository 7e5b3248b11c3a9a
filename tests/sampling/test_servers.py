"""Servers that a run starts (engine.python). Truth: their command line, a Python without vLLM, processes."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import LlamaConfig

from mapft.config import AdapterConfig, EngineConfig, ModelConfig, SamplingConfig
from mapft.config.model import Dtype
from mapft.sampling.engines import servers
from mapft.sampling.engines.servers import LocalServers, Server, command
from mapft.sampling.engines.vllm import make_vllm
from mapft.utils.errors import UserError
from tests.configs import make_config

URL = "http://127.0.0.1:9"  # nothing listens there


@pytest.fixture
def model(tmp_path) -> ModelConfig:
    LlamaConfig(max_position_embeddings=600).save_pretrained(tmp_path)
    return ModelConfig(path=str(tmp_path), dtype=Dtype.bfloat16)


def config(model: ModelConfig, *, python: str = sys.executable, urls=(URL,), options=(), **groups):
    engine = EngineConfig(name="vllm", python=python, urls=list(urls), options=list(options))
    return make_config(engine=engine, model=model, **groups)


def pairs(words: list[str]) -> dict[str, str]:
    """Of an option and its value; the last one wins."""
    return dict(itertools.pairwise(words))


def test_the_command_line_has_the_model_precision_address_and_rank_of_the_run(model):
    model.revision, model.trust_remote_code = "v2", True
    sampling = SamplingConfig(max_new_tokens=200)  # after 512 of a prompt
    words = command("http://[::1]:8123", config(model, adapter=AdapterConfig(r=17), sampling=sampling))
    assert words[:5] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model.path]
    expected = {
        "--served-model-name": "base",
        "--dtype": "bfloat16",
        "--kv-cache-memory-bytes": "4000000000",
        "--host": "::1",
        "--port": "8123",
        "--max-lora-rank": "32",
        "--max-model-len": "600",
        "--revision": "v2",
    }
    assert pairs(words).items() >= expected.items()
    assert "--trust-remote-code" in words
    shorter = command(URL, config(model, sampling=SamplingConfig(max_new_tokens=24)))
    assert pairs(shorter)["--max-model-len"] == "536"


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_prompts_are_not_divided_on_a_cpu(model, monkeypatch, kind):
    monkeypatch.setattr(servers, "device", lambda: torch.device(kind))
    assert ("--no-enable-chunked-prefill" in command(URL, config(model))) == (kind == "cpu")


LOGS = {
    "(Worker pid=1) ERROR 11-28 07:05 [executor.py:953] ValueError: no LoRA yet.": "ValueError: no LoRA yet.",
    "(APIServer pid=1) ValueError: x": "ValueError: x",
    "ERROR 11-28 [core.py:1] ValueError: y": "ValueError: y",
    "  File x\nAssertionError": "AssertionError",
    "core.ValidationError: 1 error\n  Value error, 9 > 8": "core.ValidationError: 1 error\n  Value error, 9 > 8",
    "WARNING failed with `OSError: 24`": "RuntimeError: Engine core",
    "": "it printed nothing",
}


@pytest.mark.parametrize("log", LOGS)
def test_the_message_has_the_first_exception_of_the_log(log):
    last = "\nRuntimeError: Engine core initialization failed." if log else ""
    server = Server(URL, [sys.executable, "-c", f"print({log + last!r})"])
    with pytest.raises(UserError, match=rf"has ended \({re.escape(LOGS[log])}"):
        server.wait()
    server.log.unlink()


def test_the_rank_is_that_of_the_adapter_from_which_training_starts(model, tmp_path):
    LoraConfig(r=4, rank_pattern={"q_proj": 40}).save_pretrained(tmp_path)
    model.adapter = str(tmp_path)
    assert pairs(command(URL, config(model)))["--max-lora-rank"] == "64"
    model.adapter = None
    with pytest.raises(UserError, match=r"rank 512 at most, and this one has rank 513"):
        command(URL, config(model, adapter=AdapterConfig(r=513)))


def test_options_of_the_user_come_last(model):
    more = ["--max-lora-rank", "128", "--enforce-eager"]
    assert command(URL, config(model, options=more))[-3:] == more


@pytest.mark.parametrize("url", ["http://gpu2:8000", "https://localhost:8000"])
def test_a_server_on_another_machine_cannot_be_started(model, url):
    with pytest.raises(UserError, match=rf"engine.urls has {url}; use http://localhost:PORT, or start all"):
        LocalServers(config(model, urls=["http://localhost:1", url]))


def test_a_run_on_several_machines_starts_none(model, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(UserError, match="this run has several machines"):
        LocalServers(config(model))


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("/no/such/python", "engine.python=/no/such/python is not a program"),
        (sys.executable, r"has ended \(.*No module named .*\); correct what its log .* reports"),
    ],
)
def test_a_python_without_vllm_is_one_sentence(model, python, message):
    with pytest.raises(UserError, match=message):
        make_vllm(config(model, python=python)).load(None)


def test_without_vllm_as_the_engine_a_python_is_refused():
    with pytest.raises(UserError, match="starts vLLM servers, but engine=transformers needs none; set engine=vllm"):
        EngineConfig(python=sys.executable)


def test_only_the_main_process_starts_servers(model, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert make_vllm(config(model, python="/no/such/python")).load(None) == ""


RUN = """
import sys, time
from mapft.sampling.engines.servers import Server
Server("http://127.0.0.1:9", [sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(600)
"""
SERVER = """
import json, os, sys, time
with open(sys.argv[1] + ".new", "w") as file:
    json.dump({"pid": os.getpid(), "variables": dict(os.environ)}, file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_a_server_ends_with_its_run_also_by_sigkill_and_sees_no_launcher(tmp_path):
    written = tmp_path / "server.json"
    launcher = {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    run = subprocess.Popen([sys.executable, "-c", RUN, SERVER, str(written)], env=os.environ | launcher)
    try:
        wait_until(written.exists)
        server = json.loads(written.read_text())
        assert alive(server["pid"])
        assert not launcher.keys() & server["variables"].keys()
        assert Path(server["variables"]["VLLM_RPC_BASE_PATH"]).is_dir()
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in server["variables"]
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    wait_until(lambda: not alive(server["pid"]))
    wait_until(lambda: not Path(server["variables"]["VLLM_RPC_BASE_PATH"]).exists())


def wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
