"""vLLM servers that a run starts on its own machine, with the Python of engine.python, and stops at its end."""

import atexit
import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from peft import PeftConfig

from mapft.config import Config
from mapft.playground.paths import existing_or_hub
from mapft.sampling.models import policy_dtype
from mapft.utils.errors import UserError
from mapft.utils.net import is_loopback

logger = logging.getLogger(__name__)

BASE = "base"  # the name of the base model on a server
START_SECONDS = 1200  # loading a large model takes minutes
STOP_SECONDS = 20
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM offers for --max-lora-rank
ENVIRONMENT = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1"}
LOG_CHARACTERS = 600  # of a server that did not start, in the message
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux

_running: dict[str, "Server"] = {}  # by address; the stages of a run share them


class LocalServers:
    """The servers of engine.urls on this machine, which `start` starts where none answers.

    UserError for an address on another machine.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        for url in config.engine.urls:
            if not is_loopback(urlsplit(url).hostname or ""):
                raise UserError(
                    f"engine.python starts servers on this machine, but engine.urls has {url}; use "
                    "http://localhost:PORT, or start all servers by hand and leave out engine.python."
                )

    @property
    def own(self) -> list["Server"]:
        """Those that this process has started."""
        return [_running[url] for url in self.config.engine.urls if url in _running]

    def start(self) -> None:
        """Return when every address answers. A server that somebody else has started is used as it is."""
        started = [url for url in self.config.engine.urls if not _answers(url)]
        for url in started:
            if url in _running:
                _running[url].stop()
            _running[url] = Server(url, self.config)
        for url in started:
            _running[url].wait()


class Server:
    """A process of vLLM that serves the base model of a run, with adapters, until `stop`."""

    def __init__(self, url: str, config: Config) -> None:
        self.url = url
        handle, log = tempfile.mkstemp(prefix=f"mapft-vllm-{urlsplit(url).port or 80}-", suffix=".log")
        self.log = Path(log)
        logger.warning(f"A vLLM server starts at {url}; its log is {log}.")
        try:
            self._process = subprocess.Popen(
                command(url, config),
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                env=os.environ | ENVIRONMENT,
                start_new_session=True,  # Ctrl-C reaches the run first
                preexec_fn=_end_with_parent(),
            )
        except OSError as error:
            raise UserError(
                f"engine.python={config.engine.python} cannot be started ({error}); give the Python of an environment "
                "with vLLM."
            ) from error
        finally:
            os.close(handle)
        atexit.register(self.stop)

    def wait(self) -> None:
        """Until it answers; UserError with the end of its log where it does not."""
        end = time.monotonic() + START_SECONDS
        while not _answers(self.url):
            ended = self._process.poll() is not None
            if ended or time.monotonic() > end:
                self.stop()
                why = "has ended" if ended else f"does not answer within {START_SECONDS} s"
                last = self.log.read_text("utf-8", errors="replace").strip()[-LOG_CHARACTERS:]
                raise UserError(
                    f"The vLLM server at {self.url} {why}; correct what its log {self.log} reports, which ends with: "
                    f"{last}"
                )
            time.sleep(0.5)

    def stop(self) -> None:
        """End it and its workers."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        atexit.unregister(self.stop)


def command(url: str, config: Config) -> list[str]:
    """The command line of a server, for adapters of the run's rank; engine.options come last, and win."""
    parts, rank = urlsplit(url), config.adapter.r
    if config.model.adapter:
        rank = PeftConfig.from_pretrained(existing_or_hub(config.model.adapter, "model.adapter")).r
    options: dict[str, object] = {
        "--model": existing_or_hub(config.model.path, "model.path"),
        "--served-model-name": BASE,
        "--host": parts.hostname,
        "--port": parts.port or 80,
        "--dtype": policy_dtype(config.model),
        "--generation-config": "vllm",
        "--kv-cache-memory-bytes": int(config.engine.cache_gb * 1e9),
        "--max-lora-rank": next((offered for offered in RANKS if offered >= rank), RANKS[-1]),
    }
    python = str(Path(config.engine.python or "").expanduser())
    python = shutil.which(python) or python
    words = [str(word) for option in options.items() for word in option]
    return [python, "-m", "vllm.entrypoints.openai.api_server", "--enable-lora", *words, *config.engine.options]


def _answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200
    return False


def _end_with_parent() -> Callable[[], int] | None:
    """What a child does before it begins on Linux: it asks for SIGTERM when this process ends, however it ends."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(DEATH_SIGNAL, signal.SIGTERM)
