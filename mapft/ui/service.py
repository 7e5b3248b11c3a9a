"""Read scores, and serve the palette page on them."""

import csv
import os
import shlex
from pathlib import Path

import pandas as pd
from pyarrow import ArrowInvalid, parquet

from mapft.config.run_folder import RunFolder
from mapft.palette import ScoreMatrix
from mapft.pipeline import artifacts
from mapft.ui.board import Board
from mapft.ui.gate import Gate
from mapft.ui.page import Page
from mapft.ui.server import PageServer
from mapft.ui.tuned import Tuned
from mapft.ui.worker import Worker
from mapft.utils.errors import UserError
from mapft.utils.files import read_json, read_table
from mapft.utils.net import is_loopback

PASSWORD = "MAPFT_UI_PASSWORD"  # environment variable; arguments of a command are visible to other users
USER = "mapft"
PORTS = range(7860, 7960)
RUN_SPECIFIC = ("palette", "run_dir=", "-m", "--multirun")  # overrides that a run with another palette must not have
TEXT_COLUMNS = ("prompt", "response")
PALETTES = "palettes"  # folder beside the scores


def serve(path: Path, host: str, port: int | None) -> None:
    """Serve the scores in `path` until interrupted; port=None: on the first free port."""
    server = server_of(path, host, port)
    name = f"[{host}]" if ":" in host else host
    print(f"The palette page is at http://{name}:{server.server_address[1]}/", flush=True)
    with server:
        server.serve_forever()


def server_of(path: Path, host: str, port: int | None) -> PageServer:
    """A server that listens. UserError where other machines could open the page without a password."""
    password, loopback = os.environ.get(PASSWORD), is_loopback(host)
    if not loopback and not password:
        raise UserError(f"--host {host} opens the page to other machines; set a password in {PASSWORD} (user {USER}).")
    gate, page = Gate(loopback, f"{USER}:{password}" if password else ""), open_scores(path)
    for number in [port] if port else PORTS:
        try:
            server = PageServer(host, number, page.handlers, gate)
        except (OSError, UnicodeError) as error:
            reason = error
            continue
        server.handlers = page.handlers | Worker(page.board.matrix).handlers
        return server
    ports = port or f"{PORTS.start} to {PORTS.stop - 1}"
    raise UserError(f"The page cannot be served on {host}:{ports} ({reason}); choose another --port or --host.")


def open_scores(path: Path) -> Page:
    """The page of a run folder or of a file of scores."""
    if path.is_dir():
        folder = RunFolder(path)
        for file in (folder.scores, folder.samples, folder.config):
            if not file.exists():
                raise UserError(
                    f"{path} has no {file.name}, so it is not a scored run; run `mapft score` or `mapft run` first."
                )
        return _page_of_run(folder)
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
    return Page(Board(matrix, *texts), path.parent / PALETTES, command, source=path.name)


def _page_of_run(folder: RunFolder) -> Page:
    matrix, samples = ScoreMatrix.from_parquet(folder.scores), read_table(folder.samples)
    overrides = shlex.split(read_json(folder.config).get("command", ""))[2:]
    shared = [word for word in overrides if not word.lstrip("+~").startswith(RUN_SPECIFIC)]
    targets = artifacts.read_solution(folder).solution.targets if folder.solution.exists() else None
    return Page(
        Board(matrix, samples["prompt"].tolist(), samples["response"].tolist()),
        folder.path.parent / PALETTES,
        shlex.join(["mapft", "run", *shared]),
        source=folder.path.name,
        targets=targets,
        tuned=Tuned.of(folder),
    )


def _header(path: Path) -> list[str]:
    """Names of the columns; empty where the file cannot be read, for which reading the scores raises an error."""
    try:
        if path.suffix == ".parquet":
            return list(parquet.read_schema(path).names)
        with path.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error, ArrowInvalid):
        return []
