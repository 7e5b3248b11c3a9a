"""Models of every kind of score, and a reward server."""

import threading

import pytest

from mapft.rewards import parse
from mapft.rewards.server import RewardServer
from tests import worlds
from tests.rewards import tiny
from tests.rewards.chat_server import ChatServer


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """{preset, "judge" (a classifier) or "reader" or "words" (causal models that answer Yes or No): folder}."""
    folder = tmp_path_factory.mktemp("models")
    return tiny.presets(folder) | {
        "judge": str(worlds.build(folder)["judge"]),
        "reader": tiny.judge(folder, "reader"),
        "words": tiny.word_judge(folder, "words"),
    }


@pytest.fixture
def serve():
    """serve(rewards) -> the address of a server that runs until the end of the test."""
    servers = []

    def start(rewards, **options):
        server = RewardServer(parse(rewards), **options)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def chat():
    """chat(path of a model) -> a server of it that runs until the end of the test."""
    servers = []

    def start(path):
        servers.append(ChatServer(path))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
