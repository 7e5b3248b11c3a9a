"""runs.html. Truth: the folders that the test wrote."""

import html5lib

from mapft.config.run_folder import RunFolder
from mapft.pipeline.artifacts import RunRecord, write_evaluation, write_run_record
from mapft.pipeline.index import write_index
from tests.evaluation.results import evaluation, value_result


def test_the_index_lists_every_run_with_its_state(tmp_path):
    for name, palette in (("run-a-1", "</td><b>a"), ("run-b-2", "b"), ("run-c-3", "c")):
        config = {"palette": {"name": palette}, "mode": {"name": "simultaneous"}, "seed": 4}
        write_run_record(RunFolder(tmp_path / name), RunRecord("", {}, "mapft run", {}, config))
    done = RunFolder(tmp_path / "run-a-1")
    write_evaluation(done, evaluation({"a": value_result(), "b": value_result(gap_sd=-0.5, met=False)}))
    done.report("html").write_text("")
    RunFolder(tmp_path / "run-b-2").scores.write_text("")
    RunFolder(tmp_path / "run-c-3").evaluation.write_text("{}")
    (tmp_path / "cache").mkdir()
    page = write_index(tmp_path).read_text("utf-8")
    before = (tmp_path / "runs.html").stat().st_mtime_ns
    assert write_index(tmp_path).stat().st_mtime_ns == before
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)
    assert tree.findtext(".//h1") == "3 runs, 2 of them evaluated."
    rows = [["".join(cell.itertext()) for cell in row] for row in tree.findall(".//tbody/tr")]
    assert rows == [
        ["run-a-1", "</td><b>a", "simultaneous", "evaluated", "1 of 2", "0.20 [0.10, 0.30]", "", "4"],
        ["run-b-2", "b", "simultaneous", "scored", "", "", "", "4"],
        ["run-c-3", "", "", "invalid", "", "", "", ""],
    ]
    assert [link.get("href") for link in tree.findall(".//tbody//a")] == ["run-a-1/report.html"]
