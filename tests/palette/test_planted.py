"""Promised against truly realized levels. Truth: closed forms of the planted worlds (planted.py)."""

import re

import numpy as np
import pytest

from mapft.palette import ESTIMATORS, estimators
from tests.palette import planted


@pytest.fixture(scope="module")
def errors():
    return planted.table(planted.METHODS)


def mean_error(errors, method):
    return float(np.mean(np.abs(list(errors[method].values()))))


def test_the_closed_forms_are_the_derivatives_of_the_sampled_laws():
    rng = np.random.default_rng(0)
    for law, (sample, slope) in planted.LAWS.items():
        e_N = sample(rng, 2_000_000)
        assert (e_N.mean(), e_N.var()) == pytest.approx((0.0, 1.0), abs=0.01), law
        weights_N = np.exp(0.2 * e_N)
        assert weights_N @ e_N / weights_N.sum() == pytest.approx(slope(0.2), abs=0.005), law


def test_the_docstring_tells_what_is_measured(errors):
    """Every line of the docstring's table, to its two decimals."""
    lines = dict(re.findall(r"^    (\w[\w ,()]*?) +((?:[+-]\.\d\d *){12})$", estimators.__doc__, flags=re.MULTILINE))
    names = {"gaussian, two spreads": ("gaussian", "two spreads"), "refusals (two values)": ("refusals", "one spread")}
    assert len(lines) == 6
    for name, numbers in lines.items():
        world = names.get(name, (name, "one spread"))
        measured = [errors[method][world] for method in ("pooled", "per_prompt", "centered")]
        np.testing.assert_allclose(np.array(numbers.split(), float), np.concatenate(measured), atol=0.008, err_msg=name)
    means = re.search(r"15 worlds +(\S+) +(\S+) +(\S+)", estimators.__doc__).groups()
    for method, number in zip(("pooled", "per_prompt", "centered"), means, strict=True):
        assert mean_error(errors, method) == pytest.approx(float(number), abs=0.001)
    assert mean_error(errors, "spread") == pytest.approx(0.057, abs=0.001)
    assert mean_error(errors, "cumulants") == pytest.approx(0.046, abs=0.001)


def test_the_default_is_the_best_of_the_three_on_the_whole_table(errors):
    assert min(ESTIMATORS, key=lambda method: mean_error(errors, method)) == "centered"
    assert mean_error(errors, "centered") < mean_error(errors, "pooled") / 2
