"""Hypothesis strategies for input from outside, in any form."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Checks for files use one folder per test, not per example: each example overwrites its file.
EXAMPLES = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(max_size=30)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
