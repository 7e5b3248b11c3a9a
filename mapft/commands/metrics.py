"""The meaning of every number in logs.jsonl."""

import argparse

from mapft.tracking.glossary import METRICS
from mapft.utils.terminal import make_console, print_definitions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no arguments."""


def main(arguments: argparse.Namespace) -> None:
    """Every metric and what it is."""
    print_definitions(make_console(), list(METRICS.items()))
