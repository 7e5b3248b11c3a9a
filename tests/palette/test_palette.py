"""Palette and its constructors. Truth: the formulas of method section 5, worked by hand."""

import math
import pickle

import numpy as np
import pytest

from mapft.errors import UserError
from mapft.palette import Palette, RewardMatrix

MATRIX = RewardMatrix(
    np.column_stack([[0.0, 1.0, 2.0, 3.0, 14.0], [0.1, 0.2, 0.3, 0.4, 0.5], [-4.0, -3.0, -2.0, -1.0, 0.0]]),
    ["humor", "polite", "likelihood"],
    [0, 0, 1, 1, 2],
)


def test_quantiles_never_fall_below_the_base_level():
    palette = Palette.from_quantiles(MATRIX, {"humor": 0.5, "polite": 0.75})
    assert palette.targets["humor"] == 4.0  # median 2, mean 4
    assert palette.targets["polite"] == pytest.approx(0.4)


def test_relative_gains():
    log_palette = Palette.from_relative_gain(MATRIX, {"likelihood": 0.1}, kind="log_probability")
    assert log_palette.targets["likelihood"] == pytest.approx(-2.0 + math.log(1.1))
    assert Palette.from_relative_gain(MATRIX, {"polite": 0.5}, kind="probability").targets["polite"] == pytest.approx(
        0.45
    )
    assert Palette.from_relative_gain(MATRIX, {"polite": 9.0}, kind="probability").targets["polite"] == 1.0


def test_steps_in_standard_deviations():
    palette = Palette.from_sd(MATRIX, {"likelihood": 0.5})
    assert palette.targets["likelihood"] == pytest.approx(-2.0 + 0.5 * math.sqrt(2))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Palette({}), "names no value"),
        (lambda: Palette({"humor": math.nan}), "'humor' is nan"),
        (lambda: Palette({"humor": "high"}), "'humor' is 'high'"),
        (lambda: Palette({"humor": None}), "'humor' is None"),
        (lambda: Palette({0: 1.0}), "keyed by value name"),
        (lambda: Palette.from_quantiles(MATRIX, {"humor": 80}), r"outside \[0, 1\]"),
        (lambda: Palette.from_relative_gain(MATRIX, {"humor": -1.0}, kind="log_probability"), "not above -1"),
        (lambda: Palette.from_relative_gain(MATRIX, {"humor": 0.1}, kind="probability"), "no probability"),
        (lambda: Palette.from_relative_gain(MATRIX, {"humor": 0.1}, kind="percent"), "'percent' is unknown"),
    ],
)
def test_mistakes_are_one_sentence(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Palette.from_quantiles(MATRIX, {"humour": 0.5}),
        lambda: Palette.from_sd(MATRIX, {"humour": 0.5}),
        lambda: Palette.from_relative_gain(MATRIX, {"humour": 0.5}, kind="log_probability"),
    ],
)
def test_unknown_values_print_both_name_sets(make):
    with pytest.raises(UserError, match=r"\{humour\}.*\{humor, polite, likelihood\}"):
        make()


def test_targets_cannot_be_changed_and_survive_pickling():
    palette = Palette({"humor": 1})
    with pytest.raises(TypeError):
        palette.targets["humor"] = 2.0
    assert pickle.loads(pickle.dumps(palette)) == palette
