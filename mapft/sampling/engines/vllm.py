"""vLLM servers, over HTTP: they have the base model, and load adapters while they run.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --served-model-name base --generation-config vllm \
        --enable-lora --max-lora-rank R

Requests are spread over the servers. One that does not answer is left out, with a warning, until the next adapter is
loaded, and its requests go to the others.
"""

import json
import logging
import os
import tempfile
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from mapft.config import EngineConfig
from mapft.sampling.engines.engine import Proposal
from mapft.utils.errors import UserError
from mapft.utils.files import TEMPORARY
from mapft.utils.net import is_loopback

logger = logging.getLogger(__name__)

BASE = "base"  # the name of the base model on a server
TOKEN_VARIABLE = "MAPFT_ENGINE_TOKEN"  # environment variable with the key of `vllm serve --api-key`
GENERATE, LOAD, UNLOAD = "/v1/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
CONNECT_SECONDS = 10.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds
TEMPORARY_STATUSES = {408, 425, 429, 500, 502, 503, 504}
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


class VLLM:
    """An engine, see `Engine`."""

    def __init__(self, settings: EngineConfig) -> None:
        self.settings, self.urls = settings, [url.rstrip("/") for url in settings.urls]
        self.model, self.folder = BASE, Path()  # of the adapter in use
        self._left_out: set[str] = set()
        self._adapters = Path(settings.adapters) if settings.adapters else None
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token.isascii():
            raise UserError(f"The key in {TOKEN_VARIABLE} is not ASCII, as HTTP headers require; correct it.")
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(settings.timeout, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=settings.concurrency * len(self.urls)),
            trust_env=not all(is_loopback(httpx.URL(url).host) for url in self.urls),
        )
        weakref.finalize(self, self._client.close)

    def load(self, adapter: Path | None, *, is_main: bool = True) -> None:
        """The adapter gets the hash of its weights as its name."""
        self._left_out.clear()
        before, folder = self.model, self.folder
        self.model, self.folder = (BASE, Path()) if adapter is None else self._published(adapter)
        if is_main and self.model not in (BASE, before):
            self._on_all(LOAD, {"lora_name": self.model, "lora_path": str(self.folder)})
        if before not in (BASE, self.model):
            if is_main:
                self._on_all(UNLOAD, {"lora_name": before})
            rmtree(folder, ignore_errors=True)

    def propose(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], eos_ids: Sequence[int], max_new_tokens: int
    ) -> list[Proposal]:
        """One request for each response, because a request's seed is that of each of its prompts."""
        rows = list(zip(prompts, seeds, strict=True))

        def propose_row(number: int) -> Proposal:
            prompt, seed = rows[number]
            content = {"model": self.model, "prompt": prompt, "seed": seed, "max_tokens": max_new_tokens}
            content["stop_token_ids"] = list(eos_ids)
            return _proposal(*self._on_one(GENERATE, SAMPLING | content, number))

        with ThreadPoolExecutor(self.settings.concurrency * len(self.urls)) as pool:
            return list(pool.map(propose_row, range(len(rows))))

    def _published(self, adapter: Path) -> tuple[str, Path]:
        """Its name, and a copy in the folder that the servers read."""
        if self._adapters is None:
            self._adapters = Path(tempfile.mkdtemp(prefix="mapft-adapters-"))
            weakref.finalize(self, rmtree, self._adapters, ignore_errors=True)
        config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
        digest = blake2b(_canonical(config).encode(), digest_size=8)
        for weights in sorted(adapter.glob("adapter_model.*")):
            digest.update(weights.read_bytes())
        name = f"adapter-{digest.hexdigest()}"
        folder = self._adapters / f"{name}-{os.getpid()}"
        if not folder.exists():
            self._adapters.mkdir(parents=True, exist_ok=True)
            temporary = folder.with_name(f".{folder.name}{TEMPORARY}")
            copytree(adapter, temporary, dirs_exist_ok=True)
            temporary.rename(folder)
        return name, folder.resolve()

    def _on_one(self, path: str, content: dict[str, Any], number: int) -> tuple[str, Any]:
        """(address, reply) of the server with this number, or of the next one that answers."""
        while urls := [url for url in self.urls if url not in self._left_out]:
            url = urls[number % len(urls)]
            try:
                return url, self._post(url, path, content)
            except httpx.TransportError as error:
                self._leave_out(url, error)
        raise UserError(
            f"No server of engine.urls={','.join(self.settings.urls)} answers; start one again and repeat the command, "
            "which continues where it stopped."
        )

    def _on_all(self, path: str, content: dict[str, Any]) -> None:
        for url in self.urls:
            try:
                self._post(url, path, content)
            except httpx.TransportError as error:
                self._leave_out(url, error)

    def _leave_out(self, url: str, error: Exception) -> None:
        if url not in self._left_out:
            self._left_out.add(url)
            logger.warning(f"{url} does not answer ({type(error).__name__}: {error}), so it is left out.")

    def _post(self, url: str, path: str, content: dict[str, Any]) -> Any:
        """The reply; httpx.TransportError after the last attempt, UserError for a request that is refused."""
        retrying = Retrying(
            stop=stop_after_attempt(self.settings.retries + 1),
            wait=wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            retry=retry_if_exception_type(httpx.TransportError),
            reraise=True,
        )
        return retrying(self._attempt, url, path, content)

    def _attempt(self, url: str, path: str, content: dict[str, Any], *, again: bool = True) -> Any:
        reply = self._client.post(url + path, json=content)
        status, message = reply.status_code, reply.text[:300]
        if status == 200:
            if path != GENERATE:
                return None
            body = reply.json()
            if any(choice.get("finish_reason") not in COMPLETE for choice in body.get("choices", [])):
                raise httpx.RemoteProtocolError(f"a response is incomplete: {message}")
            return body
        adapter = {"lora_name": self.model, "lora_path": str(self.folder)}
        if path == LOAD and again and "already been loaded" in message:  # by a run that was killed: its folder is gone
            self._attempt(url, UNLOAD, {"lora_name": content["lora_name"]})
            return self._attempt(url, path, content, again=False)
        if path == UNLOAD and status == 404:
            return None
        if path == GENERATE and status == 404 and again and self.model != BASE:  # the server was started again
            self._attempt(url, LOAD, adapter)
            return self._attempt(url, path, content, again=False)
        if status in TEMPORARY_STATUSES and not (path == LOAD and status == 500):
            raise httpx.RemoteProtocolError(f"status {status}: {message}")
        raise UserError(f"{url}{path} replied with status {status} ({message}); {_remedy(path, status)}.")


def _canonical(config: dict[str, Any]) -> str:
    """JSON in which the order of PEFT's sets does not show."""
    plain = {key: sorted(entry, key=str) if isinstance(entry, list) else entry for key, entry in config.items()}
    return json.dumps(plain, sort_keys=True)


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
