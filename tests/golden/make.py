"""Makes the golden output of the present format version: ``python -m tests.golden.make``; never over an older one.

A golden output is kept for ever: every later promptmill must read it, verify it and resume it (`test_golden.py`). The
tiny model's weights are kept beside it, because random weights depend on the version of torch and the model's hash is
part of the fingerprint.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.commit import FORMAT_VERSION
from tests import models

HERE = Path(__file__).parent / f"v{FORMAT_VERSION}"
FORMATS = {"parquet": "png", "webdataset": "jpeg", "files": "webp"}
"""Each output format with one of the image encodings."""


def command(output_format: str) -> list[str]:
    """The words after ``synthesize``; paths are relative to the directory of the version."""
    return [
        "prompts.uri=prompts.parquet", "generate.model=gan", "expand=null", "shards.rows=2", "seed=7",
        "limits.max_reject_fraction=1", f"output.uri={output_format}", f"output.format={output_format}",
        f"output.image.encoding={FORMATS[output_format]}",
    ]  # fmt: skip


def make() -> None:
    """Writes prompts, model and the three outputs."""
    if HERE.exists():
        raise SystemExit(f"{HERE} is there, and a golden output is never made again")
    HERE.mkdir(parents=True)
    models.save_gan(HERE / "gan")
    table = {
        "prompt": ["a red heart", "一只猫在沙滩上玩耍", "", "bold <b>x</b>"],
        "tags": [["a"], None, [], ["b", "c"]],
    }
    pq.write_table(pa.table(table), HERE / "prompts.parquet")
    for output_format in FORMATS:
        subprocess.run([sys.executable, "-m", "jobs.synthesize", *command(output_format)], cwd=HERE, check=True)
        for notes in ("timings", "drivers", "tmp"):  # of this machine, no part of the dataset
            shutil.rmtree(HERE / output_format / "_run" / notes, ignore_errors=True)


if __name__ == "__main__":
    make()
