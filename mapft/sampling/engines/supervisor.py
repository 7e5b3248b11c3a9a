"""Run the command in sys.argv until it ends, or until standard input is closed: `python supervisor.py COMMAND ...`.

The process that holds the other end of standard input cannot end, however it ends, without closing it.
"""

import subprocess
import sys
import threading

STOP_SECONDS = 20


def end(child: subprocess.Popen[bytes]) -> None:
    """Once standard input is closed, SIGTERM, and SIGKILL where that is not enough."""
    sys.stdin.read()
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=end, args=(process,), daemon=True).start()
    sys.exit(process.wait())
