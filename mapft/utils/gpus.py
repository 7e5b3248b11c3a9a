"""The GPUs of this process, and one of them for each process of a sweep."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from mapft.utils.errors import UserError

_CLAIMED: list[Any] = []  # the lock of this process's GPU


def visible_gpus() -> int:
    """Number of GPUs that this process sees; counting them does not initialise them."""
    import torch

    return torch.cuda.device_count()


def claim_gpu(launcher: str) -> None:
    """Under Hydra's joblib launcher: from now on this process sees one GPU, which no other process of a sweep has.

    A lock holds it until the process ends, through all jobs that the process runs.
    """
    if not launcher.endswith("JoblibLauncher") or _CLAIMED or not visible_gpus():
        return
    from filelock import FileLock, Timeout

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    for gpu in visible.split(",") if visible else map(str, range(visible_gpus())):
        lock = FileLock(Path(tempfile.gettempdir()) / f"mapft-{os.getuid()}-gpu-{gpu}.lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
            _CLAIMED.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            return
    raise UserError(
        "All visible GPUs are in use by jobs of this or another sweep; wait for them, or set hydra.launcher.n_jobs "
        "to the number of free GPUs."
    )
