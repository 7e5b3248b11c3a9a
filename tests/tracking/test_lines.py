"""Truth: what an uninterrupted run writes."""

from types import SimpleNamespace

from mapft.tracking.lines import JsonLines


def log(lines: JsonLines, first: int, last: int) -> None:
    main = {"is_world_process_zero": True}
    lines.on_train_begin(None, SimpleNamespace(global_step=first, **main), None)
    for step in range(first + 1, last + 1):
        lines.on_log(None, SimpleNamespace(global_step=step, **main), None, {"objective/kl": 0.5 * step})


def test_a_resumed_run_logs_every_step_once(tmp_path):
    """Killed at step 7 in the middle of a line, resumed from the checkpoint of step 4."""
    log(JsonLines(tmp_path / "whole.jsonl", {"a": 1.0}), 0, 10)
    cut = tmp_path / "cut.jsonl"
    log(JsonLines(cut, {"a": 1.0}), 0, 7)
    with cut.open("a") as file:
        file.write('{"step": 8, "obj')
    log(JsonLines(cut, {"a": 1.0}), 4, 10)
    assert cut.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_other_processes_write_nothing(tmp_path):
    lines = JsonLines(tmp_path / "logs.jsonl", {})
    lines.on_log(None, SimpleNamespace(global_step=1, is_world_process_zero=False), None, {"loss": 1.0})
    assert not (tmp_path / "logs.jsonl").exists()
