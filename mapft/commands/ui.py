"""The palette as a local web page: what a palette costs before anything is trained."""

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Scores, host and port."""
    scores = "run folder, or a .csv or .parquet of scores; without it, the playground's"
    parser.add_argument("scores", nargs="?", type=Path, help=scores)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on; others than loopback need a password")
    parser.add_argument("--port", type=_port, help="port; without it, the first free one from 7860 on")


def main(arguments: argparse.Namespace) -> None:
    """Serve until interrupted."""
    from mapft.ui.service import serve

    serve(arguments.scores or _playground_scores(), arguments.host, arguments.port)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text} is invalid; give a number from 1 to 65535")
    return int(text)


def _playground_scores() -> Path:
    """The folder of a run with scores of the playground's pilot."""
    from mapft.commands.composed import with_config
    from mapft.pipeline import run_stages
    from mapft.pipeline.run import Run

    folders: list[Path] = []

    def score(config: Any) -> None:
        run = Run(config, "mapft score")
        with run.lock():
            run_stages(run, "score")
        folders.append(run.folder.path)

    with_config([], score)
    return folders[0]
