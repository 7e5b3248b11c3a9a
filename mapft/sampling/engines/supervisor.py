"""Run the command in sys.argv until it ends, or until standard input is closed: `python supervisor.py COMMAND ...`.

The process that holds the other end of standard input cannot end, however it ends, without closing it. vLLM has its
sockets in a folder that ends with the command; by default they stay in the temporary folder.
"""

import os
import subprocess
import sys
import tempfile
import threading

STOP_SECONDS = 20
SOCKETS = "VLLM_RPC_BASE_PATH"


def end(child: subprocess.Popen[bytes]) -> None:
    """Once standard input is closed, SIGTERM, and SIGKILL where that is not enough."""
    sys.stdin.read()
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    parent = os.environ.get(SOCKETS)
    with tempfile.TemporaryDirectory(prefix="mapft-vllm-", dir=parent, ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, env=os.environ | {SOCKETS: folder})
        threading.Thread(target=end, args=(process,), daemon=True).start()
        code = process.wait()
    sys.exit(code)
