"""Benchmarks: each prints ratios measured in one run; `./launch/bench.sh` collects all of them in one file."""

RATIO = "RATIO"


def ratio(name: str, number: float, unit: str = "times") -> None:
    """Print a row of the table: "numerator / denominator" and the number."""
    print(f"{RATIO} | {name} | {number:.2f} {unit} |", flush=True)
