"""The meaning of every number in logs.jsonl."""

import argparse

from mapft.tracking.glossary import METRICS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no arguments."""


def main(arguments: argparse.Namespace) -> None:
    """One line per metric."""
    width = max(map(len, METRICS))
    print("\n".join(f"{name:<{width}}  {meaning}" for name, meaning in METRICS.items()))
