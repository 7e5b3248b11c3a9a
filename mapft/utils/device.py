"""The device of this process and its memory."""

import ctypes
import gc
import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

M_MMAP_THRESHOLD = -3  # of malloc.h
MAPPED_BYTES = 2**18


def device() -> torch.device:
    """The GPU of this process (by LOCAL_RANK, before accelerate sets the current one) if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@contextmanager
def whole_weights() -> Iterator[None]:
    """Inside, every process loads a whole model, even while DeepSpeed ZeRO-3 shards the policy.

    Once ZeRO-3 is configured, transformers shards every model that it loads, including a reward model that a single
    process scores with.
    """
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import deepspeed_config, unset_hf_deepspeed_config

    config = deepspeed_config()
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            _DEEPSPEED_CONFIG[:] = [HfDeepSpeedConfig(config)]  # registers itself; transformers keeps a weak reference


_DEEPSPEED_CONFIG: list[object] = []


def free_memory() -> None:
    """Free models that nothing refers to any more, reference cycles included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_bytes() -> int:
    """Free memory for this process: of its GPU, else its share of the host's."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(device())[0])
    return int(psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def return_freed_memory() -> None:
    """From now on glibc gives memory of MAPPED_BYTES or more back to the system when it is freed.

    By default it keeps much of what the tensors of a pass leave behind, up to as much as the pass needs. Small models
    pay for the system calls: a training of the playground takes a third more time.
    """
    if platform.libc_ver()[0] == "glibc" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def peak_gb(device: torch.device) -> float:
    """Peak memory so far in 10^9 bytes: of the GPU, or the resident set of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts at the parent process's resident set
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
