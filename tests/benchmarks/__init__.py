"""Speed as ratios that are measured in one run; `./launch/bench.sh` runs all of them into one table."""

RATIO = "RATIO"


def ratio(what: str, number: float, unit: str = "times") -> None:
    """A line of the table: what is compared with what, and how often the one goes into the other."""
    print(f"{RATIO} | {what} | {number:.2f} {unit} |", flush=True)
