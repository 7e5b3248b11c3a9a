"""A real vLLM server on the CPU, in the environment whose python MAPFT_VLLM names (launch/test.sh --engines)."""

import os
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx

PYTHON = os.environ.get("MAPFT_VLLM", "")
START_SECONDS = 600


class Server:
    """Serves a model with adapters until `stop`."""

    def __init__(self, model: Path, log: Path, rank: int = 16, threads: int = 1) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}", log
        options = {
            "--model": model,
            "--served-model-name": "base",
            "--dtype": "float32",
            "--max-lora-rank": rank,
            "--max-model-len": 128 if threads > 1 else 64,
            "--port": port,
            "--generation-config": "vllm",
            "--max-num-seqs": 64,
        }
        words = [str(word) for option in options.items() for word in option]
        environment = os.environ | {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": str(threads),
        }
        command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--enable-lora", "--enforce-eager", *words]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )

    def wait(self) -> None:
        """Until it answers."""
        for _ in range(START_SECONDS):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            time.sleep(1)
        raise TimeoutError(self.log.read_text()[-3000:])

    def stop(self) -> None:
        """Kill it and its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
