"""Read scores, and serve the palette page on them."""

import csv
import os
import shlex
import socket
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import ArrowInvalid, parquet

from mapft.config.run_folder import RunFolder
from mapft.palette import ScoreMatrix
from mapft.ui.board import Board
from mapft.utils.errors import UserError
from mapft.utils.files import read_json, read_table
from mapft.utils.net import is_loopback

PASSWORD = "MAPFT_UI_PASSWORD"  # environment variable; arguments of a command are visible to other users
USER = "mapft"
PORTS = range(7860, 7960)  # the range of Gradio
RUN_SPECIFIC = ("palette", "run_dir=", "-m", "--multirun")  # overrides that a run with another palette must not have
TEXT_COLUMNS = ("prompt", "response")
PALETTES = "palettes"  # folder beside the scores


def serve(path: Path, host: str, port: int | None) -> None:
    """Serve the scores in `path` until interrupted; port=None: on the first free port."""
    page, options = page_of(path, host, port)
    _, address, _ = page.launch(**options, prevent_thread_lock=True)
    print(f"The palette page is at {address}", flush=True)
    page.block_thread()


def page_of(path: Path, host: str, port: int | None) -> tuple[Any, dict[str, Any]]:
    """(Gradio blocks, options of launch). UserError where other machines could open the page without a password."""
    password = os.environ.get(PASSWORD)
    if not is_loopback(host) and not password:
        raise UserError(f"--host {host} opens the page to other machines; set a password in {PASSWORD} (user {USER}).")
    port = _free_port(host, port)
    board, folder, command = open_scores(path)
    try:
        import gradio
        from starlette.middleware import Middleware
    except ImportError as error:
        raise UserError("mapft ui needs gradio, which is not installed; run pip install 'mapft[ui]'.") from error
    from mapft.ui.gate import Gate
    from mapft.ui.html import STYLE
    from mapft.ui.layout import build
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
    return build(Page(board, folder, command)), options


def _free_port(host: str, port: int | None) -> int:
    """The port, or the first free one of PORTS for None; UserError where the host or port cannot be used."""
    for number in [port] if port else PORTS:
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                server.bind((host, number))
                return number
            except (OSError, UnicodeError) as error:
                reason = error
    ports = port or f"{PORTS.start} to {PORTS.stop - 1}"
    raise UserError(f"The page cannot be served on {host}:{ports} ({reason}); choose another --port or --host.")


def open_scores(path: Path) -> tuple[Board, Path, str]:
    """(board, folder for palettes, `mapft run` with the settings of the scores) of a run folder or a file of scores."""
    if path.is_dir():
        folder = RunFolder(path)
        for file in (folder.scores, folder.samples, folder.config):
            if not file.exists():
                raise UserError(
                    f"{path} has no {file.name}, so it is not a scored run; run `mapft score` or `mapft run` first."
                )
        matrix = ScoreMatrix.from_parquet(folder.scores)
        samples = read_table(folder.samples)
        overrides = shlex.split(read_json(folder.config).get("command", ""))[2:]
        shared = [word for word in overrides if not word.lstrip("+~").startswith(RUN_SPECIFIC)]
        command = shlex.join(["mapft", "run", *shared])
        return Board(matrix, samples["prompt"].tolist(), samples["response"].tolist()), path.parent / PALETTES, command
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path} is neither a run folder nor a .csv or .parquet file of scores; give one of these.")
    read = ScoreMatrix.from_csv if path.suffix == ".csv" else ScoreMatrix.from_parquet
    text_columns = [name for name in TEXT_COLUMNS if name in _header(path)]
    matrix = read(path, ignore=text_columns)
    if path.suffix == ".csv":
        columns = pd.read_csv(path, usecols=text_columns, dtype=str, keep_default_na=False)
    else:
        columns = pd.read_parquet(path, columns=text_columns).fillna("")
    texts = [columns[name].tolist() if name in text_columns else [] for name in TEXT_COLUMNS]
    for name, column in zip(TEXT_COLUMNS, texts, strict=True):
        invalid = next((text for text in column if not isinstance(text, str)), None)
        if invalid is not None:
            raise UserError(
                f"The column {name} of {path} holds {invalid!r}, which is not text; write text, or remove the column."
            )
    command = shlex.join(["mapft", "run", f"rewards=[{','.join(matrix.values)}]"])
    return Board(matrix, *texts), path.parent / PALETTES, command


def _header(path: Path) -> list[str]:
    """Names of the columns; empty where the file cannot be read, for which reading the scores raises an error."""
    try:
        if path.suffix == ".parquet":
            return list(parquet.read_schema(path).names)
        with path.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error, ArrowInvalid):
        return []
