"""What must not leak, and what must not run. Truth: every byte that a run leaves or prints; every call in mapft."""

import ast
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

import mapft
from mapft.cli import main
from mapft.errors import UserError
from mapft.rewards import parse
from mapft.rewards.function import TRUST, trusted
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


def test_secrets_are_in_nothing_that_a_run_leaves_or_prints(tmp_path, monkeypatch, capfd):
    """Keys of the environment, of a reward's settings, of an address; with both trackers, report and export."""
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
    printed = "".join(
        line for line in printed.splitlines(True) if not line.startswith("Error executing job")
    )  # Hydra's
    assert "http://me:***@127.0.0.1" in printed
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {".json", ".html", ".md", ".parquet", ".wandb", ".safetensors"} <= {path.suffix for path in files}
    for secret in [*PLANTED.values(), "planted-key-0451", "planted-password-0451"]:
        assert secret not in printed
        assert [str(path) for path in files if secret.encode() in path.read_bytes()] == []
    kept = json.loads((tmp_path / "out/run/config.json").read_text())["config"]["rewards"]
    assert (kept["other"]["api_key"], kept["other"]["max_tokens"]) == ("***", 7)


def test_settings_name_only_code_within_reach(tmp_path, monkeypatch):
    (tmp_path / "here.py").write_text("def score(prompts, completions): return [1.0] * len(completions)")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine_too.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert trusted("here")
    assert trusted("trl.rewards.format_rewards")
    for module in ("os", "sys", "builtins", "subprocess", "numpy.random", "torch", "trl.scripts", "mine_too", "posix"):
        assert not trusted(module), module
        with pytest.raises(UserError, match=f"set {TRUST}={module.partition('.')[0]} if you trust it"):
            parse({"v": {"_target_": f"{module}.anything"}})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    assert trusted("mine_too")
    monkeypatch.setenv(TRUST, "numpy, torch")
    assert trusted("numpy.random")
    assert trusted("torch")
    assert not trusted("os")


def test_settings_do_not_import_what_they_may_not_run(tmp_path):
    """A package on the path that is not trusted leaves no trace, not even of its import."""
    (tmp_path / "site" / "evil").mkdir(parents=True)
    (tmp_path / "site" / "evil" / "__init__.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    code = (
        f"import sys; sys.path.append({str(tmp_path / 'site')!r}); from mapft.cli import main; "
        "sys.exit(main(['plan', 'rewards=[]', '+rewards.v._target_=evil.f', 'palette=custom', '+palette.sd.v=1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "set MAPFT_TRUST=evil if you trust it" in done.stderr
    assert not (tmp_path / "trace").exists()


def test_trust_is_said_aloud(tmp_path, capfd):
    world = worlds.build(tmp_path)
    more = ["model.trust_remote_code=true", "+rewards.judge.allow_pickle=true"]
    assert main(["sample", *own(world, tmp_path / "out", *more)]) == 0
    printed = capfd.readouterr().out
    assert f"model.trust_remote_code=true: Python code that comes with {world['model']} can run" in printed
    assert "rewards.judge.allow_pickle=true: code within the pickled weights" in printed
    assert main(["sample", *own(world, tmp_path / "out")]) == 0
    assert "can run on this machine" not in capfd.readouterr().out


def test_requests_are_limited_in_rate(monkeypatch):
    now = SimpleNamespace(monotonic=lambda: 0.0)  # no time passes, so nothing is filled up
    monkeypatch.setattr("mapft.serving.time", now)
    monkeypatch.setattr("mapft.rewards.server.RATE", 5.0)
    with RewardServer(parse({"vowels": {"kind": "function", "target": "tests.worlds:vowels"}})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        statuses = [httpx.get(url, trust_env=False).status_code for _ in range(12)]
        assert statuses == [200] * 5 + [429] * 7
        now.monotonic = lambda: 1.0
        assert httpx.get(url, trust_env=False).status_code == 200
        other = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=other) as client:
            assert client.get(url).status_code == 200
        server.shutdown()


def calls(tree: ast.AST) -> list[tuple[str, set[str]]]:
    """(dotted name, keywords that are the constant True) of every call."""
    return [
        (ast.unparse(node.func), {k.arg for k in node.keywords if k.arg and ast.unparse(k.value) == "True"})
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


def test_nothing_that_was_read_is_run():
    """No pickle, no eval, no unsafe YAML in the package; torch.load takes weights alone."""
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
