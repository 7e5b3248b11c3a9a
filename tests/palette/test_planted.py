"""Errors of the predicted levels, as the method page states them. Truth: closed forms (planted.py)."""

import re
from pathlib import Path

import numpy as np
import pytest

import mapft.palette
from mapft.palette import ESTIMATORS
from tests.palette import planted

PAGE = Path(mapft.palette.__file__).with_name("README.md")


@pytest.fixture(scope="module")
def errors():
    return planted.table()


def mean_error(errors, estimator):
    return float(np.mean(np.abs(list(errors[estimator].values()))))


def test_the_closed_forms_are_the_derivatives_of_the_sampled_laws():
    rng = np.random.default_rng(0)
    for law, (sample, slope) in planted.LAWS.items():
        e_N = sample(rng, 2_000_000)
        assert (e_N.mean(), e_N.var()) == pytest.approx((0.0, 1.0), abs=0.01), law
        weights_N = np.exp(0.2 * e_N)
        assert weights_N @ e_N / weights_N.sum() == pytest.approx(slope(0.2), abs=0.005), law


def test_the_method_page_states_the_measured_errors(errors):
    """Every row of the page's table, to its two decimals."""
    page, columns = PAGE.read_text("utf-8"), ("pooled", "per_prompt", "centered")
    rows = re.findall(r"^\| ([\w ]+), ((?:one|two) spreads?) \| (.+) \|$", page, flags=re.MULTILINE)
    assert {law for law, *_ in rows} == set(planted.LAWS)
    for law, spread, cells in rows:
        measured = [errors[estimator][law, spread] for estimator in columns]
        stated = [[float(number) for number in cell.split()] for cell in cells.split(" | ")]
        np.testing.assert_allclose(stated, measured, atol=0.008, err_msg=f"{law}, {spread}")
    means = re.search(r"^\| mean absolute error, 15 worlds \| (\S+) \| (\S+) \| (\S+) \|$", page, flags=re.MULTILINE)
    for estimator, number in zip(columns, means.groups(), strict=True):
        assert mean_error(errors, estimator) == pytest.approx(float(number), abs=0.001)


def test_the_default_estimator_has_the_smallest_error(errors):
    assert min(ESTIMATORS, key=lambda estimator: mean_error(errors, estimator)) == "centered"
    assert mean_error(errors, "centered") < mean_error(errors, "pooled") / 2
