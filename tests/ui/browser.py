"""Serves the page in a process of its own, as users do, and opens it in a browser."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import httpx

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def serving(*scores: Path, cwd: Path | None = None) -> Iterator[str]:
    """The address of `mapft ui scores`, or of `mapft ui` alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mapft", "ui", *map(str, scores), "--port", str(port)]
    server = subprocess.Popen(command, cwd=cwd)
    while not responds(url):
        assert server.poll() is None, "the page's server ended"
        time.sleep(0.1)
    try:
        yield url
    finally:
        server.terminate()
        server.wait()


def responds(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def launched() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, url: str, width: int = 1400, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """(page, errors): errors of scripts and of the console, and requests to other hosts."""
    context = browser.new_context(viewport={"width": width, "height": 1000}, **options)
    context.set_default_timeout(120_000)  # milliseconds, for a machine that does other work
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: errors.append(request.url) if to_another_host(request.url) else None)
    page.goto(url)
    page.wait_for_selector("#verdict .verdict")
    try:
        yield page, errors
    finally:
        context.close()


def to_another_host(url: str) -> bool:
    return urlparse(url).scheme.startswith("http") and urlparse(url).hostname != "127.0.0.1"


def set_level(page: Any, number: int, to: float) -> None:
    page.fill(f"#level-{number} input[type=number]", str(to))
    page.press(f"#level-{number} input[type=number]", "Tab")


def wait_for_verdict(page: Any, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#verdict .verdict')?.innerText.includes(text)", arg=text)
