"""The slow requests of the page in a process of their own, so that they do not delay a verdict."""

import signal
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any

from mapft.palette import ScoreMatrix
from mapft.ui.board import Board
from mapft.ui.page import Page

SLOW = ("/around", "/bands", "/nearest")  # up to seconds at 20,000 samples; they need the scores only


class Worker:
    """A process that answers SLOW requests, one at a time. It ends with the process that started it."""

    def __init__(self, matrix: ScoreMatrix) -> None:
        context = get_context("spawn")
        self.pipe, end = context.Pipe()
        self.lock = Lock()
        self.process = context.Process(target=_serve, args=(end, matrix), daemon=True)
        self.process.start()
        end.close()

    @property
    def handlers(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        """The requests by path."""
        return {path: partial(self._answer, path) for path in SLOW}

    def _answer(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.pipe.send((path, request))
            answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe: Connection, matrix: ScoreMatrix) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the server, and its end of the pipe
    handlers = Page(Board(matrix), Path()).handlers
    try:
        while True:
            path, request = pipe.recv()
            pipe.send(_answer_or_error(handlers[path], request))
    except (EOFError, OSError):  # the server has ended
        return


def _answer_or_error(handler: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any]) -> Any:
    try:
        return handler(request)
    except Exception as error:  # raised where the request was made
        return error
