"""Small files that ask for a lot end in a sentence, in a process that may have one more GiB of address space.

The limit is set after the imports, which take more than a GiB of address space (not of memory) by themselves; they are
made once, and each bomb is opened in a fork.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.security import bombs

SECONDS = 30
"""That one bomb may take."""
CHILD = """
import json, os, resource, signal, sys
from pathlib import Path
import pyarrow as pa
from actors.errors import UserError
from pipeline.captioned import open_captioned
from pipeline.columns import choose_columns
from pipeline.config_stages import Prompts
from pipeline.evaluate_config import Images
from pipeline.image_table import open_images
from pipeline.prompts import open_table
from pipeline.sample_reader import pixels

def picture(path):
    table = open_captioned(path)
    for fragment in table.fragments:
        for row in table.read(fragment):
            pixels(row, 64)

def prompts(path):
    config = Prompts(uri=path)
    table = open_table(config)
    for batch in table.batches(list(choose_columns(table.schema, config).read)):
        batch.to_pylist()

def captioned(path):
    table = open_captioned(path)
    for fragment in table.fragments:
        for row in table.read(fragment):
            pass

def judged(path):
    table = open_images(Images(uri=path), "generated")
    for number in range(len(table.fragments)):
        table.read(number)

def opened(reader, path):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        globals()[reader](path)
    except (UserError, ValueError) as error:
        return f"{type(error).__name__} {error}"
    return "it was read"

# Arrow's allocator sets a GiB of addresses aside when it is first used; that is none of a bomb's doing.
pa.array(["a"])
for reader, path in json.loads(sys.argv[1]):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm({seconds})
        told = "something else was raised"
        try:
            told = opened(reader, path)
        finally:
            os.write(write, told[:4000].encode())
            os._exit(0)
    os.close(write)
    told = b""
    while part := os.read(read, 4096):
        told += part
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(told.decode() if status == 0 else f"died with {status}"))
""".replace("{seconds}", str(SECONDS))

CASES: dict[str, tuple[str, str, Callable[[], bytes], str]] = {
    "huge_png": ("picture", "a.png", bombs.huge_png, "a.png' cannot be decoded: it has more than"),
    "text_png": ("picture", "b.png", bombs.text_png, "b.png' cannot be decoded: not a whole"),
    "huge_tiff": ("picture", "c.tiff", bombs.huge_tiff, "c.tiff' cannot be decoded: it has more than"),
    # Formats that are on no list, whatever their size.
    "ppm": ("picture", "d.ppm", lambda: bombs.small("PPM"), "d.ppm' cannot be decoded: not a whole PNG, JPEG"),
    "ico": ("picture", "e.png", lambda: bombs.small("ICO"), "e.png' cannot be decoded: not a whole PNG, JPEG"),
    "prompts": (
        "prompts", "p.parquet", lambda: bombs.dictionary_parquet("prompt"), "p.parquet' is a decompression bomb",
    ),
    "captions": (
        "captioned", "c.parquet", lambda: bombs.dictionary_parquet("caption", image="x"),
        "c.parquet' is a decompression bomb",
    ),
    "judged": (
        "judged", "j.parquet", lambda: bombs.dictionary_parquet("prompt", image="x"),
        "j.parquet' is a decompression bomb",
    ),
    "zeros": ("captioned", "i.parquet", lambda: bombs.zeros_parquet("image", 2), "i.parquet"),
    "cells": ("prompts", "cells.parquet", lambda: bombs.cells_parquet("prompt"), "cells.parquet"),
    "carried_cells": ("prompts", "carried.parquet", lambda: bombs.cells_parquet("extra", prompt="a cat"), "carried"),
    "long_line": ("captioned", "metadata.jsonl", bombs.long_line, "metadata.jsonl"),
    "nested_lines": ("captioned", "metadata.jsonl", bombs.nested_lines, "metadata.jsonl"),
    "nested_columns": ("prompts", "deep.parquet", bombs.nested_parquet, "deep.parquet"),
    "sparse_tar": ("captioned", "s.tar", bombs.sparse_tar, "s.tar"),
    "nested_tar": ("captioned", "n.tar", bombs.nested_tar, "n.tar"),
}  # fmt: skip


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """How each bomb ended, by its name."""
    asked = []
    for case, (reader, name, make, _) in CASES.items():
        path = tmp_path_factory.mktemp(case) / name
        path.write_bytes(make())
        if reader == "picture":
            (path.parent / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "a cat"}) + "\n")
        asked.append((reader, str(path.parent if (path.parent / "metadata.jsonl").exists() else path)))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(asked)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_bomb_is_a_sentence_that_names_the_file(ends: dict[str, str], case: str) -> None:
    assert ends[case].startswith(("UserError", "ValueError")), ends[case]
    assert CASES[case][3] in ends[case]
