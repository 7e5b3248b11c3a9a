"""GPUs of a sweep's processes. Truth: the lock files and CUDA_VISIBLE_DEVICES."""

import os
import subprocess
import sys

import pytest

from mapft.utils import gpus
from mapft.utils.errors import UserError


def test_each_process_of_a_sweep_claims_one_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "visible_gpus", lambda: 2)
    monkeypatch.setattr(gpus, "_CLAIMED", [])
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus.claim_gpu("BasicLauncher")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    gpus.claim_gpu("JoblibLauncher")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    gpus.claim_gpu("JoblibLauncher")  # its next job
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    other = (
        "import sys, os, tempfile; from mapft.utils import gpus; gpus.visible_gpus = lambda: 2; "
        "tempfile.gettempdir = lambda: sys.argv[1]; gpus.claim_gpu('JoblibLauncher'); "
        "print(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    said = subprocess.run(
        [sys.executable, "-c", other, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "1"
    monkeypatch.setattr(gpus, "_CLAIMED", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match="All visible GPUs are in use"):
        gpus.claim_gpu("JoblibLauncher")
