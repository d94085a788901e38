"""Small files that ask for a lot end in a sentence, in a process that may have one more GiB of address space.

The limit is set after the imports, which take more than a GiB of address space (not of memory) by themselves.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.security import bombs

CHILD = """
import resource, sys
from pathlib import Path
from actors.decode import decode_image
from actors.errors import UserError
from pipeline.captioned import open_captioned
from pipeline.config import Prompts
from pipeline.prompts import open_table

def picture(path):
    decode_image(Path(path).read_bytes())

def prompts(path):
    for batch in open_table(Prompts(uri=path)).batches(["prompt"]):
        batch.to_pylist()

def captioned(path):
    table = open_captioned(path)
    for fragment in table.fragments:
        for row in table.read(fragment):
            pass

pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    globals()[sys.argv[1]](sys.argv[2])
except (UserError, ValueError) as error:
    print(type(error).__name__, error)
else:
    print("it was read")
"""


@pytest.mark.parametrize(
    ("reader", "name", "make", "says"),
    [
        ("picture", "a.png", bombs.huge_png, "pixels"),
        ("picture", "a.png", bombs.text_png, "not a whole"),
        ("picture", "a.tiff", bombs.huge_tiff, "pixels"),
        ("prompts", "p.parquet", lambda: bombs.dictionary_parquet("prompt"), "p.parquet' is a decompression bomb"),
        (
            "captioned",
            "c.parquet",
            lambda: bombs.dictionary_parquet("caption", image="x"),
            "c.parquet' is a decompression bomb",
        ),
        ("captioned", "i.parquet", lambda: bombs.zeros_parquet("image", 2), "i.parquet"),
        ("captioned", "metadata.jsonl", bombs.nested_lines, "metadata.jsonl"),
        ("captioned", "s.tar", bombs.sparse_tar, "s.tar"),
        ("captioned", "n.tar", bombs.nested_tar, "n.tar"),
    ],
    ids=[
        "huge_png",
        "text_png",
        "huge_tiff",
        "prompts",
        "captions",
        "zeros",
        "nested_lines",
        "sparse_tar",
        "nested_tar",
    ],
)
def test_a_bomb_is_a_sentence_that_names_the_file(
    tmp_path: Path, reader: str, name: str, make: Callable[[], bytes], says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(make())
    target = tmp_path if name == "metadata.jsonl" else path
    done = subprocess.run(
        [sys.executable, "-c", CHILD, reader, str(target)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(("UserError", "ValueError")), done.stdout
    assert says in done.stdout
