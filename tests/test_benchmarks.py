"""The benchmarks run: figures are for `make bench`, none is looked at here."""

from __future__ import annotations

import json

from tests.benchmarks.__main__ import main
from tests.benchmarks.catalogue import QUICK


def test_the_quick_benchmarks_run_and_write_what_they_found(tmp_path, capsys):
    main(["--quick", "--output", str(tmp_path / "bench.json")])
    found = json.loads((tmp_path / "bench.json").read_text())
    assert list(found["benchmarks"]) == list(QUICK)
    for name, benchmark in found["benchmarks"].items():
        assert benchmark["comparisons"], name
        assert all(row["least"] <= row["ratio"] <= row["most"] for row in benchmark["comparisons"]), name
    assert {"cpu", "usable_cores", "memory_gib"} <= found["machine"].keys()
    assert {"torch", "pyarrow", "ray"} <= found["versions"].keys()
    drawn = (tmp_path / "bench.html").read_text()
    assert "<script" not in drawn
    assert all(f"<h2>{name}</h2>" in drawn for name in QUICK)
    page = capsys.readouterr().out
    assert all(name in page for name in QUICK)
