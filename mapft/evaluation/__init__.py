"""Was the promise kept? Realized levels with intervals, the closing table, the report."""
