"""Palette: what it accepts, and that it is immutable. Truth: its contract; test_targets.py has the kinds of target."""

import math
import pickle

import pytest

from mapft.palette import Palette
from mapft.utils.errors import UserError


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({}, "names no value"),
        ({"humor": math.nan}, "'humor' is nan"),
        ({"humor": True}, "'humor' is True"),
        ({"humor": "high"}, "'humor' is 'high'"),
        ({"humor": None}, "'humor' is None"),
        ({0: 1.0}, "key 0 of the palette is not the name of a value"),
    ],
)
def test_invalid_targets_are_refused(targets, message):
    with pytest.raises(UserError, match=message):
        Palette(targets)


def test_targets_cannot_be_changed_and_survive_pickling():
    palette = Palette({"humor": 1})
    with pytest.raises(TypeError):
        palette.targets["humor"] = 2.0
    assert pickle.loads(pickle.dumps(palette)) == palette
