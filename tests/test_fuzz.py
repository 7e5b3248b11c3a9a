"""What others wrote, in any form. Truth: it is read as it was written, or there is one UserError; a server lives on."""

import csv
import io
import json
import math
import socket
import threading
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mapft.cli import main
from mapft.config import DataConfig
from mapft.errors import UserError
from mapft.masking import masked, masked_command
from mapft.palette import Palette, RewardMatrix, Status, solve_dual
from mapft.rewards import parse
from mapft.rewards.server import RewardServer
from mapft.sampling.prompts import load_prompts
from mapft.serving import Rate

QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(max_size=30)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=8)
CELLS = st.sampled_from(["", "0", "1", "-2.5", "nan", "inf", "1e400", "x", '"', "=1+1", "0x10", "1_000", "١"])


def as_csv(rows: list[list[str]]) -> str:
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue()


@QUICK
@given(
    st.binary(max_size=200)
    | st.lists(st.lists(st.sampled_from(["prompt_id", "a", "b"]) | CELLS, max_size=4), max_size=5)
    .map(as_csv)
    .map(str.encode)
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_score_file_is_read_whole_or_refused(tmp_path, ending, content):
    path = tmp_path / f"scores.{ending}"
    path.write_bytes(content)
    try:
        matrix = (RewardMatrix.from_csv if ending == "csv" else RewardMatrix.from_parquet)(path)
    except UserError:
        return
    assert np.isfinite(matrix.scores).all()
    assert len(matrix) == len(list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))) - 1


@pytest.mark.filterwarnings("ignore:.*have one sample only:UserWarning")
@QUICK
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.floats(-1e150, 1e150), st.floats(-1e150, 1e150)), min_size=1, max_size=8)
)
def test_scores_survive_the_round_trip_and_solve_or_refuse(tmp_path, rows):
    matrix = RewardMatrix([row[1:] for row in rows], ["a", "b"], [row[0] for row in rows])
    for name in ("csv", "parquet"):
        getattr(matrix, f"to_{name}")(tmp_path / f"scores.{name}")
        back = getattr(RewardMatrix, f"from_{name}")(tmp_path / f"scores.{name}")
        assert np.array_equal(back.scores, matrix.scores)
    scaled = matrix.scores / max(1.0, np.abs(matrix.scores).max())
    small = RewardMatrix(scaled, ["a", "b"], matrix.prompt_ids)
    try:
        solution = solve_dual(small, Palette.from_sd(small, {"a": 0.1, "b": 0.1}))
    except UserError:
        return
    if solution.status is Status.optimal:
        assert all(math.isfinite(lam) and lam >= 0 for lam in solution.lam.values())
    else:
        assert solution.certificate is None or solution.certificate.verify(small)


@QUICK
@given(st.dictionaries(TEXT, ANYTHING, max_size=4))
def test_a_palette_is_made_or_refused(targets):
    matrix = RewardMatrix([[0.0, 1.0], [1.0, 0.0]], ["a", "b"], [0, 0])
    for make in (Palette, lambda t: Palette.from_sd(matrix, t), lambda t: Palette.from_quantiles(matrix, t)):
        try:
            made = make(targets)
        except UserError:
            continue
        assert all(math.isfinite(c) for c in made.targets.values())


@QUICK
@given(st.dictionaries(TEXT, ANYTHING, max_size=4))
def test_settings_of_a_reward_are_parsed_or_refused(given_):
    try:
        parsed = parse({"v": {"kind": "keywords", "pattern": "a"} | given_})
    except UserError:
        return
    assert np.isfinite(parsed["v"].load("v").score(["p"], ["a"])).all()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["name", "quantiles", "sd", "absolute", "colour"]), ANYTHING, max_size=4))
def test_a_palette_file_is_composed_or_refused(tmp_path, capfd, content):
    """conf/palette/mine.yaml in a folder of the user's, as `mapft ui` saves one."""
    folder = tmp_path / "conf" / "palette"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.yaml").write_text(yaml.safe_dump(content), "utf-8")
    code = main(["plan", "--config-dir", str(tmp_path / "conf"), "palette=mine", "model=none_such"])
    told = capfd.readouterr().err
    assert code == 2
    assert sum(line.startswith("mapft: ") for line in told.splitlines()) == 1
    assert "Traceback" not in told


@QUICK
@given(
    st.binary(max_size=120) | st.lists(ANYTHING, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
)
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_prompts_are_read_or_refused(tmp_path, ending, content):
    path = tmp_path / f"prompts.{ending}"
    path.write_bytes(content)
    try:
        prompts = load_prompts(DataConfig(path=str(path)))
    except UserError:
        return
    assert len(prompts) >= 2


@pytest.fixture(scope="module")
def server():
    with RewardServer(parse({"vowels": {"kind": "function", "target": "tests.worlds:vowels"}})) as server:
        server.rate = Rate(math.inf)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@settings(max_examples=150, deadline=None)
@given(path=TEXT, body=st.binary(max_size=100) | ANYTHING.map(lambda content: json.dumps(content).encode()))
def test_the_server_answers_any_request_with_a_sentence(server, path, body):
    for where in ("/score/vowels", "/" + quote(path, errors="replace")):
        url = f"http://127.0.0.1:{server}{where}"
        with httpx.Client(trust_env=False) as client:
            answer = client.post(url, content=body)
        assert answer.status_code in (200, 400, 404, 413, 422)
        assert answer.status_code == 200 or answer.json()["error"].endswith(".")


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200)
    | st.binary(max_size=80).map(lambda more: b"POST /score/vowels HTTP/1.1\r\n" + more + b"\r\n\r\n")
)
def test_the_server_outlives_any_bytes(server, raw):
    with socket.create_connection(("127.0.0.1", server), timeout=5) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(2**16):
            pass
    with httpx.Client(trust_env=False) as client:
        answer = client.post(f"http://127.0.0.1:{server}/score/vowels", json={"prompts": ["p"], "responses": ["ab"]})
    assert answer.json() == {"scores": [1 / 3]}


@QUICK
@given(st.dictionaries(TEXT, ANYTHING, max_size=3), PRINTABLE)
def test_no_secret_survives_masking(around, secret):
    hidden = {**around, "api_key": secret, "deep": [{"hf_token": secret, "credentials": {"mine": secret}}]}
    assume(
        secret not in json.dumps(around, ensure_ascii=False) and secret.strip() not in "api_key hf_token credentials"
    )
    assert json.dumps(secret)[1:-1] not in json.dumps(masked(hidden), ensure_ascii=False)
    quoted = secret.replace("\\", "\\\\").replace("'", "\\'")
    word = f"+rewards.a={{path: x, api_key: '{quoted}', max_tokens: 7}}"
    assert masked_command(word) == "+rewards.a={path: x, api_key: ***, max_tokens: 7}"


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("wandb_api_key=hunter2", "wandb_api_key=***"),
        ("+rewards.a={token: hun,ter2}", "+rewards.a={token: ***}"),
        ("+rewards.a={api_key: hun ter2, path: x}", "+rewards.a={api_key: ***, path: x}"),
        ('+rewards.a={"api_key": "hun\\"ter2"}', '+rewards.a={"api_key": ***}'),
        ("+rewards.a={api_key: hunter2", "+rewards.a={api_key: ***"),
        ("+r.a.url=http://me:p@ss@host/score", "+r.a.url=http://me:***@host/score"),
        ("+r.a.url=http://host/score?api_token=hunter2&x=1", "+r.a.url=http://host/score?api_token=***"),
        ("sampling.max_new_tokens=50", "sampling.max_new_tokens=50"),
    ],
)
def test_words_are_masked(word, shown):
    assert masked_command(word) == shown
