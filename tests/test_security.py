"""Secrets, and code from outside. Truth: every byte that a run writes or prints; every call in the source of mapft."""

import ast
import json
import threading
from pathlib import Path

import mapft
from mapft.cli import main
from mapft.rewards import parse
from mapft.rewards.server import RewardServer
from tests import worlds
from tests.worlds import SMALL, own

PLANTED = {name: f"planted-{name.lower()}-0451" for name in ("WANDB_API_KEY", "HF_TOKEN", "OPENAI_API_KEY")}


class Judge:
    """A reward that needs a key."""

    def __init__(self, api_key: str, max_tokens: int):
        self.api_key, self.max_tokens = api_key, max_tokens

    def __call__(self, prompts, completions, **_):
        return [float(len(text)) for text in completions]


def test_a_run_neither_writes_nor_prints_secrets(tmp_path, monkeypatch, capfd):
    """Secrets of the environment, of a reward's settings and of a URL; with both trackers, report and export."""
    for name, secret in PLANTED.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("WANDB_MODE", "offline")
    world = worlds.build(tmp_path / "world")
    with RewardServer(parse({"vowels": {"kind": "function", "target": "tests.worlds:vowels"}})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://me:planted-password-0451@127.0.0.1:{server.server_address[1]}/score/vowels"
        rewards = [
            "+rewards.other={_target_: tests.test_security.Judge, api_key: planted-key-0451, max_tokens: 7}",
            f"+rewards.there={{kind: remote, url: '{address}', retries: 0}}",
            f"run_dir={tmp_path / 'out' / 'run'}",
        ]
        overrides = own(world, tmp_path / "out", *SMALL, *rewards, "tracking=[wandb,tensorboard]")
        assert main(["run", *overrides]) == 0
        assert main(["export", *overrides]) == 0
        server.shutdown()
    server.server_close()
    assert main(["score", *overrides, "seed=1", f"run_dir={tmp_path / 'out' / 'again'}", "--debug"]) == 2
    assert main(["score", "-m", *overrides, f"run_dir={tmp_path / 'out' / 'swept'}", "seed=2,3"]) == 2
    printed = "".join(capfd.readouterr())
    assert "Error executing job with overrides" in printed, "Hydra's own line is among what is searched"
    assert "http://me:***@127.0.0.1" in printed
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {".json", ".html", ".md", ".parquet", ".wandb", ".safetensors"} <= {path.suffix for path in files}
    for secret in [*PLANTED.values(), "planted-key-0451", "planted-password-0451"]:
        assert secret not in printed
        assert [str(path) for path in files if secret.encode() in path.read_bytes()] == []
    rewards = json.loads((tmp_path / "out/run/config.json").read_text())["config"]["rewards"]
    assert (rewards["other"]["api_key"], rewards["other"]["max_tokens"]) == ("***", 7)


def test_trust_in_code_from_outside_is_printed(tmp_path, capfd):
    world = worlds.build(tmp_path)
    more = ["model.trust_remote_code=true", "+rewards.judge.allow_pickle=true"]
    assert main(["sample", *own(world, tmp_path / "out", *more)]) == 0
    printed = capfd.readouterr().out
    assert f"model.trust_remote_code=true: Python code that comes with {world['model']} can run" in printed
    assert "rewards.judge.allow_pickle=true: code in the pickled weights of" in printed
    assert main(["sample", *own(world, tmp_path / "out")]) == 0
    assert "can run on this machine" not in capfd.readouterr().out


def calls(tree: ast.AST) -> list[tuple[str, set[str]]]:
    """(dotted name, keywords that are the constant True) of every call."""
    return [
        (ast.unparse(node.func), {k.arg for k in node.keywords if k.arg and ast.unparse(k.value) == "True"})
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


def test_no_file_that_is_read_can_run_code():
    """No pickle, eval, shell or unsafe YAML in the package; torch.load with weights_only."""
    loads = 0
    for path in Path(mapft.__file__).parent.rglob("*.py"):
        for name, true in calls(ast.parse(path.read_text("utf-8"))):
            assert name not in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system"), path
            assert not name.startswith(("pickle.", "joblib.load", "dill.", "marshal.")), path
            assert "allow_pickle" not in true, path
            assert "shell" not in true, path
            if name == "torch.load":
                loads += 1
                assert "weights_only" in true, path
    assert loads > 0
