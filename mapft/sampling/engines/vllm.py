"""vLLM servers, over HTTP: they have the base model, and load adapters while they run.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --served-model-name base --generation-config vllm \
        --enable-lora --max-lora-rank R

With engine.python the run starts them itself (servers.py). Requests are spread over the servers. One that does not
answer is left out, with a warning, until the next adapter is loaded, and its requests go to the others.
"""

import logging
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any, TypeVar
from uuid import uuid4

import httpx

from mapft.config import Config, EngineConfig
from mapft.sampling.engines.engine import Proposal
from mapft.sampling.engines.servers import BASE, LocalServers
from mapft.utils.errors import UserError
from mapft.utils.http_client import TEMPORARY_STATUSES, authorization, retrying
from mapft.utils.net import is_loopback

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

TOKEN_VARIABLE = "MAPFT_ENGINE_TOKEN"  # environment variable with the key of `vllm serve --api-key`
GENERATE, LOAD, UNLOAD = "/v1/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
CONNECT_SECONDS, LOAD_SECONDS = 10.0, 120.0
COMPLETE = ("stop", "length")  # reasons why a response ended; others are failures of the server
SAMPLING = {  # the model's whole distribution, whatever defaults a server has
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,  # only the policy's EOS tokens, stop_token_ids, end a response
    "logprobs": 0,
    "return_token_ids": True,
    "skip_special_tokens": False,
}


def make_vllm(config: Config) -> "VLLM":
    """The engine of a run. With engine.python the main process starts its servers."""
    local = LocalServers(config) if config.engine.python and int(os.environ.get("RANK", "0")) == 0 else None
    return VLLM(config.engine, local)


class VLLM:
    """An engine, see `Engine`. Its adapters are numbered under a name of its own, so runs can share servers.

    local: servers that are started where they do not answer, before an adapter is loaded.
    """

    def __init__(self, settings: EngineConfig, local: LocalServers | None = None) -> None:
        self.settings, self.urls = settings, [url.rstrip("/") for url in settings.urls]
        self._local = local
        self._client = httpx.Client(
            headers=authorization(TOKEN_VARIABLE),
            timeout=httpx.Timeout(settings.timeout, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=settings.concurrency * len(self.urls)),
            trust_env=not all(is_loopback(httpx.URL(url).host) for url in self.urls),
        )
        self._name, self._loads = f"mapft-{uuid4().hex[:12]}", 0
        self._folder = Path()  # of the adapter in use; the base model where it has no name
        self._left_out: set[str] = set()
        self._revived, self._lock = False, threading.Lock()
        self._own: list[Path] = []  # folders that this object has made: one at most
        weakref.finalize(self, _close, self._client, self.urls, self._own)

    @property
    def model(self) -> str:
        """The name of the model or adapter in use on the servers."""
        return self._folder.name or BASE

    def load(self, adapter: Path | None) -> str:
        """A copy of the adapter in the folder that the servers read is loaded; the one before is removed."""
        self._left_out.clear()
        self._revived = False
        if self._local is not None:
            self._local.start()
        if adapter is None and self.model == BASE:
            return ""
        before, self._folder = list(self._own), Path()
        if adapter is not None:
            self._loads += 1
            parent = Path(self.settings.adapters or tempfile.mkdtemp(prefix="mapft-adapters-"))
            self._folder = parent.resolve() / f"{self._name}-{self._loads}"
            copytree(adapter, self._folder)
            self._own.append(self._folder)
            self._in_parallel(self._load_on, self.urls)
        for folder in before:
            _remove(self._client, [url for url in self.urls if url not in self._left_out], folder)
            self._own.remove(folder)
        return str(self._folder) if adapter is not None else ""

    def follow(self, loaded: str) -> None:
        """See `Engine`."""
        self._left_out.clear()
        self._folder = Path(loaded)

    def propose(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], eos_ids: Sequence[int], max_new_tokens: int
    ) -> list[Proposal]:
        """One request for each response, because a request's seed is that of each of its prompts."""
        common = SAMPLING | {"model": self.model, "max_tokens": max_new_tokens, "stop_token_ids": list(eos_ids)}

        def propose_row(row: tuple[int, list[int], int]) -> Proposal:
            number, prompt, seed = row
            return _proposal(*self._generate_on_one(number, common | {"prompt": prompt, "seed": seed}))

        return self._in_parallel(propose_row, zip(range(len(prompts)), prompts, seeds, strict=True))

    def _in_parallel(self, function: Callable[[T], R], arguments: Iterable[T]) -> list[R]:
        with ThreadPoolExecutor(self.settings.concurrency * len(self.urls)) as pool:
            return list(pool.map(function, arguments))

    def _generate_on_one(self, number: int, content: dict[str, Any]) -> tuple[str, Any]:
        """(address, reply) of the server with this number, or of the next one that answers."""
        while urls := self._answering():
            url = urls[number % len(urls)]
            try:
                return url, self._post(url, GENERATE, content)
            except httpx.TransportError as error:
                self._leave_out(url, error)
        raise UserError(
            f"No server of engine.urls={','.join(self.settings.urls)} answers; start one again and repeat the command, "
            "which continues where it stopped."
        )

    def _answering(self) -> list[str]:
        """Servers that are not left out. Where none is, those of the run are started again, once for each adapter."""
        with self._lock:
            left = [url for url in self.urls if url not in self._left_out]
            if not left and self._local is not None and not self._revived:
                self._revived = True
                self._local.start()
                self._left_out.clear()
                left = self.urls
        return left

    def _load_on(self, url: str) -> None:
        try:
            self._post(url, LOAD, self._adapter)
        except httpx.TransportError as error:
            self._leave_out(url, error)

    @property
    def _adapter(self) -> dict[str, str]:
        return {"lora_name": self.model, "lora_path": str(self._folder)}

    def _leave_out(self, url: str, error: Exception) -> None:
        if url not in self._left_out:
            self._left_out.add(url)
            logger.warning(f"{url} does not answer ({type(error).__name__}: {error}), so it is left out.")

    def _post(self, url: str, path: str, content: dict[str, Any]) -> Any:
        """The reply; httpx.TransportError after the last attempt, UserError for a request that is refused."""
        attempt = retrying(self.settings.retries, lambda error: isinstance(error, httpx.TransportError))
        return attempt(self._attempt, url, path, content)

    def _attempt(self, url: str, path: str, content: dict[str, Any], *, again: bool = True) -> Any:
        seconds = min(LOAD_SECONDS, self.settings.timeout) if path == LOAD else self.settings.timeout
        reply = self._client.post(url + path, json=content, timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS))
        status, message = reply.status_code, reply.text[:300]
        if status == 200:
            return _complete(url, reply) if path == GENERATE else None
        if path == LOAD and "already been loaded" in message:  # by an attempt before, whose reply was lost
            return None
        if path == GENERATE and status == 404 and again and self.model != BASE:  # the server was started again
            self._attempt(url, LOAD, self._adapter)
            return self._attempt(url, path, content, again=False)
        if status in TEMPORARY_STATUSES and not (path == LOAD and status == 500):
            raise httpx.RemoteProtocolError(f"status {status}: {message}")
        raise UserError(f"{url}{path} replied with status {status} ({message}); {_remedy(path, status)}.")


def _close(client: httpx.Client, urls: Sequence[str], folders: list[Path]) -> None:
    for folder in folders:
        _remove(client, urls, folder)
    client.close()


def _remove(client: httpx.Client, urls: Sequence[str], folder: Path) -> None:
    """Unload an adapter, where the server answers and has it, and remove its folder."""
    for url in urls:
        with suppress(httpx.HTTPError):
            client.post(url + UNLOAD, json={"lora_name": folder.name}, timeout=CONNECT_SECONDS)
    rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        if folder.parent.name.startswith("mapft-adapters-"):
            folder.parent.rmdir()


def _complete(url: str, reply: httpx.Response) -> Any:
    """The content of a reply; httpx.TransportError where a response was not generated to its end."""
    try:
        body = reply.json()
        incomplete = [choice for choice in body["choices"] if choice["finish_reason"] not in COMPLETE]
    except (ValueError, KeyError, TypeError) as error:
        shown = repr(reply.text[:100])
        raise UserError(f"{url} replied {shown}, as no vLLM server does; correct engine.urls.") from error
    if incomplete:
        raise httpx.RemoteProtocolError(f"a response is incomplete: {incomplete[0]['finish_reason']}")
    return body


def _proposal(url: str, reply: Any) -> Proposal:
    try:
        choice = reply["choices"][0]
        ids, logp = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        return Proposal([int(token) for token in ids], float(sum(logp)))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(
            f"{url} returned no token ids with their log-probabilities, as recent versions of vLLM do; correct "
            "engine.urls, or update the server."
        ) from error


def _remedy(path: str, status: int) -> str:
    if status in (401, 403):
        return f"set {TOKEN_VARIABLE} to the key of the server"
    start = f"start it with --served-model-name {BASE}, --enable-lora, --max-lora-rank of at least adapter.r, and "
    start += "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
    if path == LOAD:
        return f"{start}, and set engine.adapters to a folder that it can read"
    return start if status == 404 else "correct what the server reports"
