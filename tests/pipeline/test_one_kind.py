"""A dataset and a training run do not share a place, whichever was there first."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import UserError
from jobs.cli import main
from pipeline.storage import Store
from pipeline.train_record import begin_run


def test_no_dataset_is_begun_where_a_training_run_is(tmp_path, capsys):
    pq.write_table(pa.table({"prompt": ["一只猫在沙滩上玩耍"]}), tmp_path / "prompts.parquet")
    asked = ["plan", f"prompts.uri={tmp_path / 'prompts.parquet'}", f"output.uri={tmp_path / 'out'}", "expand=null"]
    assert main(asked) == 0
    begin_run(Store(str(tmp_path / "out")), {"config": {}}, {"count": 1}, fresh=False)
    capsys.readouterr()
    assert main(asked) == 2
    assert "out' holds a training run (run.json): take another output.uri" in capsys.readouterr().err


@pytest.mark.parametrize("fresh", [False, True])
def test_no_training_is_begun_where_a_dataset_is(tmp_path, fresh):
    store = Store(str(tmp_path))
    store.replace("_run/run.json", b"{}")
    with pytest.raises(UserError, match=r"holds a dataset \(_run/run.json\): take another output.uri"):
        begin_run(store, {"config": {}}, {"count": 1}, fresh=fresh)
    assert store.read("run.json") is None
