"""Models of every kind of score, and a reward server."""

import threading

import pytest

from mapft.rewards import parse
from mapft.rewards.server import RewardServer
from tests import worlds
from tests.rewards import tiny


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """{preset, "judge" (a classifier) or "reader" (a causal model that answers Yes or No): folder}."""
    folder = tmp_path_factory.mktemp("models")
    return tiny.presets(folder) | {
        "judge": str(worlds.build(folder)["judge"]),
        "reader": tiny.judge(folder, "reader"),
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
