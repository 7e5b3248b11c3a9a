"""`mapft metrics`. Truth: the glossary."""

from mapft.cli import main
from mapft.tracking.glossary import METRICS


def test_the_glossary_is_printed(capsys):
    assert main(["metrics"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in METRICS)
