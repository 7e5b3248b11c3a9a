"""Score files, palettes and palette files in any form. Truth: they are read as written, or there is one UserError."""

import csv
import io
import math

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mapft.cli import main
from mapft.palette import Palette, ScoreMatrix, Status, solve_dual
from mapft.utils.errors import UserError
from tests.strategies import ANYTHING, EXAMPLES, TEXT

CELLS = st.sampled_from(["", "0", "1", "-2.5", "nan", "inf", "1e400", "x", '"', "=1+1", "0x10", "1_000", "١"])


def as_csv(rows: list[list[str]]) -> str:
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue()


@EXAMPLES
@given(
    st.binary(max_size=200)
    | st.lists(st.lists(st.sampled_from(["prompt_id", "a", "b"]) | CELLS, max_size=4), max_size=5)
    .map(as_csv)
    .map(str.encode)
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_score_file_is_read_completely_or_rejected(tmp_path, ending, content):
    path = tmp_path / f"scores.{ending}"
    path.write_bytes(content)
    try:
        matrix = (ScoreMatrix.from_csv if ending == "csv" else ScoreMatrix.from_parquet)(path)
    except UserError:
        return
    assert np.isfinite(matrix.scores).all()
    assert len(matrix) == len(list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))) - 1


@pytest.mark.filterwarnings("ignore:.*have one sample only:UserWarning")
@EXAMPLES
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.floats(-1e150, 1e150), st.floats(-1e150, 1e150)), min_size=1, max_size=8)
)
def test_scores_survive_a_round_trip_and_are_solved_or_rejected(tmp_path, rows):
    matrix = ScoreMatrix([row[1:] for row in rows], ["a", "b"], [row[0] for row in rows])
    for name in ("csv", "parquet"):
        getattr(matrix, f"to_{name}")(tmp_path / f"scores.{name}")
        back = getattr(ScoreMatrix, f"from_{name}")(tmp_path / f"scores.{name}")
        assert np.array_equal(back.scores, matrix.scores)
    scaled = matrix.scores / max(1.0, np.abs(matrix.scores).max())
    small = ScoreMatrix(scaled, ["a", "b"], matrix.prompt_ids)
    try:
        solution = solve_dual(small, Palette.of(small, sd={"a": 0.1, "b": 0.1}))
    except UserError:
        return
    if solution.status is Status.optimal:
        assert all(math.isfinite(lam) and lam >= 0 for lam in solution.lam.values())
    else:
        assert solution.certificate is None or solution.certificate.verify(small)


@EXAMPLES
@given(st.dictionaries(TEXT, ANYTHING, max_size=4))
def test_a_palette_is_created_or_rejected(targets):
    matrix = ScoreMatrix([[0.0, 1.0], [1.0, 0.0]], ["a", "b"], [0, 0])
    for create in (Palette, lambda t: Palette.of(matrix, sd=t), lambda t: Palette.of(matrix, quantiles=t)):
        try:
            palette = create(targets)
        except UserError:
            continue
        assert all(math.isfinite(c) for c in palette.targets.values())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["name", "quantiles", "sd", "absolute", "colour"]), ANYTHING, max_size=4))
def test_a_palette_file_is_composed_or_rejected(tmp_path, capfd, content):
    """conf/palette/mine.yaml in a folder of the user, as `mapft ui` writes it."""
    folder = tmp_path / "conf" / "palette"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.yaml").write_text(yaml.safe_dump(content), "utf-8")
    code = main(["plan", "--config-dir", str(tmp_path / "conf"), "palette=mine", "model=none_such"])
    error = capfd.readouterr().err
    assert code == 2
    assert sum(line.startswith("mapft: ") for line in error.splitlines()) == 1
    assert "Traceback" not in error
