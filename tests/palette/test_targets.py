"""Kinds of target: one row per kind. Truth: the formulas of mapft/palette/README.md, "Kinds of target", by hand."""

import math
import runpy

import numpy as np
import pytest

import mapft.config.palette
from mapft.palette import Palette, ScoreMatrix
from mapft.palette.targets import TARGETS, TargetKind
from mapft.utils.errors import UserError

MATRIX = ScoreMatrix(  # means 4, .3, -2; sd of likelihood sqrt(2)
    np.column_stack([[0.0, 1.0, 2.0, 3.0, 14.0], [0.1, 0.2, 0.3, 0.4, 0.5], [-4.0, -3.0, -2.0, -1.0, 0.0]]),
    ["humor", "polite", "likelihood"],
    [0, 0, 1, 1, 2],
)

# kind: (value, number, c_i), and (value, invalid number, message)
ROWS = {
    "quantiles": (("polite", 0.75, 0.4), ("humor", 80, r"quantile 80.0 of value 'humor' is outside \[0, 1\]")),
    "relative_gain": (("likelihood", 0.1, -2.0 + math.log(1.1)), ("humor", -1.0, "gain -1.0 of value 'humor' is not")),
    "relative_gain_probability": (("polite", 0.5, 0.45), ("humor", 0.1, "between 0 and 14, so they are not prob")),
    "sd": (("likelihood", 0.5, -2.0 + 0.5 * math.sqrt(2)), ("humor", math.inf, "sd of value 'humor' is inf")),
    "absolute": (("humor", 2.5, 2.5), ("humor", math.nan, "absolute of value 'humor' is nan")),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_every_kind_computes_its_target_and_refuses_an_invalid_number(kind):
    (value, number, target), (refused, invalid, message) = ROWS[kind]
    assert Palette.of(MATRIX, **{kind: {value: number}}).targets == pytest.approx({value: target})
    with pytest.raises(UserError, match=message):
        Palette.of(MATRIX, **{kind: {refused: invalid}})
    with pytest.raises(UserError, match=r"no value humour.*\{humour\}.*\{humor, polite, likelihood\}"):
        Palette.of(MATRIX, **{kind: {"humour": number}})
    assert TARGETS[kind].help.endswith(".")


def test_a_quantile_below_the_base_level_becomes_the_base_level():
    assert Palette.of(MATRIX, quantiles={"humor": 0.5}).targets["humor"] == 4.0  # median 2, mean 4


def test_a_probability_target_is_at_most_one():
    assert Palette.of(MATRIX, relative_gain_probability={"polite": 9.0}).targets["polite"] == 1.0


def test_a_new_kind_needs_one_entry_in_the_table(monkeypatch):
    """win_rate: the level at which this share of the base samples scores lower."""
    win_rate = TargetKind(lambda matrix, value, share: float(np.quantile(matrix.column(value), share)), help="A share.")
    with pytest.raises(UserError, match="kind of target 'win_rate' is unknown: use one of quantiles, relative_gain"):
        Palette.of(MATRIX, win_rate={"humor": 0.75})
    monkeypatch.setitem(TARGETS, "win_rate", win_rate)
    palette = Palette.of(MATRIX, win_rate={"humor": 0.75}, sd={"polite": 0.0})
    assert palette.targets == pytest.approx({"humor": 3.0, "polite": 0.3})


def test_a_new_kind_becomes_a_setting(monkeypatch):
    """PaletteConfig is built from TARGETS when its module is executed; run_path leaves the imported one as it is."""
    monkeypatch.setitem(TARGETS, "win_rate", TargetKind(lambda matrix, value, share: share, help="A share."))
    config = runpy.run_path(mapft.config.palette.__file__)["PaletteConfig"]
    settings = config(win_rate={"humor": 0.6}, sd={"polite": 0.1})
    assert settings.kinds() == {"sd": {"polite": 0.1}, "win_rate": {"humor": 0.6}}
