"""vLLM servers, over HTTP: they have the base model, and load adapters while they run.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --served-model-name base --enable-lora --max-lora-rank R

Requests are spread over the servers. One that does not answer is left out, with a warning, and its requests go to the
others.
"""

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
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds
TEMPORARY_STATUSES = {408, 425, 429, 500, 502, 503, 504}
SAMPLING = {  # of the model's whole distribution: a server applies the defaults of the model's generation_config.json
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


class VLLM:
    """An engine: see `Engine`."""

    def __init__(self, settings: EngineConfig) -> None:
        self.settings = settings
        temporary = tempfile.mkdtemp(prefix="mapft-adapters-")
        weakref.finalize(self, rmtree, temporary, ignore_errors=True)
        self.adapters = Path(settings.adapters or temporary)
        self.model = BASE
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        limits = httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency)
        self.servers = {
            url.rstrip("/"): httpx.Client(
                headers=headers,
                timeout=settings.timeout,
                limits=limits,
                trust_env=not is_loopback(httpx.URL(url).host),
            )
            for url in settings.urls
        }
        for client in self.servers.values():
            weakref.finalize(self, client.close)

    def load(self, adapter: Path | None) -> None:
        """The adapter gets the hash of its files as its name, so a server never has another one under it."""
        before, self.model = self.model, BASE
        if adapter is not None:
            self.model, folder = self._published(adapter)
            if self.model != before:
                self._on_all("/v1/load_lora_adapter", {"lora_name": self.model, "lora_path": str(folder)})
        if before not in (BASE, self.model):
            self._on_all("/v1/unload_lora_adapter", {"lora_name": before})
            rmtree(self.adapters / before, ignore_errors=True)

    def propose(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], eos_ids: Sequence[int], max_new_tokens: int
    ) -> list[Proposal]:
        """One request for each response, because a request's seed is that of each of its prompts."""
        rows = list(zip(prompts, seeds, strict=True))

        def propose_row(number: int) -> Proposal:
            prompt, seed = rows[number]
            content = SAMPLING | {
                "model": self.model,
                "prompt": prompt,
                "seed": seed,
                "max_tokens": max_new_tokens,
                "stop_token_ids": list(eos_ids),
                "logprobs": 0,
                "return_token_ids": True,
                "skip_special_tokens": False,
            }
            return self._proposal(*self._on_one("/v1/completions", content, number))

        with ThreadPoolExecutor(self.settings.concurrency * max(1, len(self.servers))) as pool:
            return list(pool.map(propose_row, range(len(rows))))

    def _published(self, adapter: Path) -> tuple[str, Path]:
        """Its name, and a copy in the folder that the servers read."""
        digest = blake2b(digest_size=8)
        for file in sorted(path for path in adapter.iterdir() if path.is_file()):
            digest.update(file.name.encode() + file.read_bytes())
        name = f"adapter-{digest.hexdigest()}"
        folder = self.adapters / name
        if not folder.exists():
            self.adapters.mkdir(parents=True, exist_ok=True)
            temporary = folder.with_name(f".{name}-{os.getpid()}{TEMPORARY}")
            copytree(adapter, temporary, dirs_exist_ok=True)
            try:
                temporary.rename(folder)
            except OSError:  # another process of the training was first
                rmtree(temporary, ignore_errors=True)
        return name, folder.resolve()

    def _proposal(self, url: str, reply: Any) -> Proposal:
        try:
            choice = reply["choices"][0]
            ids, logp = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            return Proposal([int(token) for token in ids], float(sum(logp)))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"{url} returned no token ids with their log-probabilities, as recent versions of vLLM do; correct "
                "engine.urls, or update the server."
            ) from error

    def _on_one(self, path: str, content: dict[str, Any], number: int) -> tuple[str, Any]:
        """(address, reply) of the server with this number, or of the next one that answers."""
        while True:
            urls = list(self.servers)
            if not urls:
                raise UserError(
                    f"No server of engine.urls={','.join(self.settings.urls)} answers; start one again and repeat the "
                    "command, which continues where it stopped."
                )
            url = urls[number % len(urls)]
            try:
                return url, self._post(url, path, content)
            except httpx.TransportError as error:
                self._leave_out(url, error)

    def _on_all(self, path: str, content: dict[str, Any]) -> None:
        for url in list(self.servers):
            try:
                self._post(url, path, content)
            except httpx.TransportError as error:
                self._leave_out(url, error)

    def _leave_out(self, url: str, error: Exception) -> None:
        if self.servers.pop(url, None) is not None:
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

    def _attempt(self, url: str, path: str, content: dict[str, Any]) -> Any:
        client = self.servers.get(url)
        if client is None:
            raise httpx.ConnectError("left out")
        reply = client.post(url + path, json=content)
        if reply.status_code in TEMPORARY_STATUSES:
            raise httpx.TransportError(f"status {reply.status_code}")
        if reply.status_code == 400 and "already been loaded" in reply.text:
            return None
        if reply.status_code == 404 and path.endswith("unload_lora_adapter"):
            return None  # another process has unloaded it
        if reply.status_code != 200:
            raise UserError(f"{url}{path} refused a request with status {reply.status_code}: {_message(reply)}")
        return reply.json() if reply.headers.get("content-type", "").startswith("application/json") else None


def _message(reply: httpx.Response) -> str:
    hints = {
        401: f"set {TOKEN_VARIABLE} to the key of the server.",
        404: f"start it with --served-model-name {BASE}, --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.",
    }
    return hints.get(reply.status_code, reply.text[:300])
