"""`mapft ui [RUN_OR_SCORES]`: read the scores, serve the page."""

import csv
import os
import shlex
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import ArrowInvalid, parquet

from mapft.errors import UserError
from mapft.palette import RewardMatrix
from mapft.sampling.store import read_json, read_table
from mapft.serving import is_loopback
from mapft.ui.board import Board

PASSWORD = "MAPFT_UI_PASSWORD"  # the variable that holds it; words of a command are seen by everyone on the machine
USER = "mapft"
PORTS = range(7860, 7960)  # gradio's own
LEFT_OUT = ("palette", "run_dir=", "-m", "--multirun")  # of the command that made a run, for a run of another palette
TEXTS = ("prompt", "response")
PALETTES = "palettes"  # beside the scores


def serve(words: Sequence[str]) -> None:
    """Serve until stopped. words: the path, and --host, --port with their values."""
    page, options = page_of(words)
    _, address, _ = page.launch(**options, prevent_thread_lock=True)
    print(f"The palette page is at {address}", flush=True)
    page.block_thread()


def page_of(words: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """(gradio blocks, options of launch). Raises UserError for wrong words and an open host without password."""
    path, host, port = _words(words)
    password = os.environ.get(PASSWORD)
    if not is_loopback(host) and not password:
        raise UserError(f"--host {host} opens the page to other machines; set a password in {PASSWORD} (user {USER}).")
    port = _free(host, port)
    board, folder, command = open_scores(path)
    try:
        import gradio
        from starlette.middleware import Middleware
    except ImportError as error:
        raise UserError("mapft ui needs gradio; pip install 'mapft[ui]'.") from error
    from mapft.ui.drawing import STYLE
    from mapft.ui.gate import Gate
    from mapft.ui.page import Page

    options: dict[str, Any] = {
        "server_name": host,
        "server_port": port,
        "auth": (USER, password) if password else None,
        "app_kwargs": {"middleware": [Middleware(Gate, loopback=is_loopback(host))]},
        "share": False,
        "quiet": True,
        "theme": gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        "css": STYLE,
        "footer_links": [],
        "ssr_mode": False,
    }
    return Page(board, folder, command).build(), options


def _free(host: str, port: int | None) -> int:
    """The port, or where none is asked for the first free one; UserError where the page cannot be served there."""
    for number in [port] if port else PORTS:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, number))
                return number
            except (OSError, UnicodeError) as error:
                why = error
    where = port or f"{PORTS.start} to {PORTS.stop - 1}"
    raise UserError(f"The page cannot be served on {host}:{where} ({why}); choose another --port or --host.")


def _words(words: Sequence[str]) -> tuple[Path, str, int | None]:
    path, options = Path(), dict(zip(words[1::2], words[2::2], strict=False))
    if not words or words[0].startswith("--"):
        raise UserError("mapft ui was given no scores; name a run folder, or a .csv or .parquet of scores.")
    path = Path(words[0])
    if len(words) % 2 == 0 or not set(options) <= {"--host", "--port"}:
        raise UserError(f"mapft ui does not understand {' '.join(words[1:])}; it takes --host NAME and --port NUMBER.")
    port = options.get("--port")
    if port is not None and not (port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"--port {port} is no port; give a number from 1 to 65535.")
    return path, options.get("--host", "127.0.0.1"), int(port) if port else None


def open_scores(path: Path) -> tuple[Board, Path, str]:
    """(board, folder for palettes, the command that made the run) of a run folder or a file of scores."""
    if path.is_dir():
        for name in ("scores.parquet", "samples.parquet", "config.json"):
            if not (path / name).exists():
                raise UserError(f"{path} holds no {name}; name a folder that `mapft score` or `mapft run` has made.")
        matrix = RewardMatrix.from_parquet(path / "scores.parquet")
        samples = read_table(path / "samples.parquet")
        overrides = shlex.split(read_json(path / "config.json").get("command", ""))[2:]
        kept = [word for word in overrides if not word.lstrip("+~").startswith(LEFT_OUT)]
        command = shlex.join(["mapft", "run", *kept])
        return Board(matrix, samples["prompt"].tolist(), samples["response"].tolist()), path.parent / PALETTES, command
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path} is no run folder and no .csv or .parquet of scores.")
    read = RewardMatrix.from_csv if path.suffix == ".csv" else RewardMatrix.from_parquet
    known = [name for name in TEXTS if name in _header(path)]
    matrix = read(path, ignore=known)
    if path.suffix == ".csv":
        columns = pd.read_csv(path, usecols=known, dtype=str, keep_default_na=False)
    else:
        columns = pd.read_parquet(path, columns=known).fillna("")
    texts = [columns[name].tolist() if name in known else [] for name in TEXTS]
    for name, column in zip(TEXTS, texts, strict=True):
        if strange := next((text for text in column if not isinstance(text, str)), None):
            raise UserError(
                f"The column {name} of {path} holds {strange!r}, which is no text; write texts, or drop it."
            )
    command = shlex.join(["mapft", "run", f"rewards=[{','.join(matrix.values)}]"])
    return Board(matrix, *texts), path.parent / PALETTES, command


def _header(path: Path) -> list[str]:
    """Names of the columns; none where the file cannot be read, which reading the scores will say."""
    try:
        if path.suffix == ".parquet":
            return list(parquet.read_schema(path).names)
        with path.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error, ArrowInvalid):
        return []
