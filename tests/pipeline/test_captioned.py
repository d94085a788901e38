"""Captioned image tables: which columns are captions, what weights and splits do, and what is said of bad rows."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import webdataset

from actors.decode import decode_image
from actors.errors import UserError
from pipeline.captioned import open_captioned
from tests.pipeline.outputs import make_output

PICTURE = {"bytes": b"a picture", "path": "a.png"}


def write(path: Path, rows: list[dict[str, Any]], group: int = 2) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return str(path)


def test_a_row_group_is_a_fragment_and_rows_come_in_the_order_asked(tmp_path):
    uri = write(tmp_path / "t.parquet", [{"image": PICTURE, "caption": f"thing {n}"} for n in range(5)])
    table = pickle.loads(pickle.dumps(open_captioned(uri)))
    assert [fragment.rows for fragment in table.fragments] == [2, 2, 1]
    assert table.rows == 5
    assert [row.captions for row in table.read(table.fragments[1], [1, 0, 1])] == [
        ("thing 3",),
        ("thing 2",),
        ("thing 3",),
    ]
    assert table.read(table.fragments[0])[0].image == b"a picture"


@pytest.mark.parametrize(
    ("columns", "captions", "languages"),
    [
        ({"caption": "a cat"}, ("a cat",), ("",)),
        ({"caption": ["a cat", "the cat ", "a cat", None, " "]}, ("a cat", "the cat"), ("", "")),
        ({"caption_en": ["a cat"], "caption_zh": "一只猫"}, ("a cat", "一只猫"), ("en", "zh")),
        ({"text": "a cat"}, ("a cat",), ("",)),
        ({"prompt": "cat", "description": "a cat on a mat"}, ("a cat on a mat",), ("",)),
    ],
)
def test_caption_columns_are_found(columns, captions, languages, tmp_path):
    table = open_captioned(write(tmp_path / "t.parquet", [{"image": PICTURE, **columns}]))
    (row,) = table.read(table.fragments[0])
    assert (row.captions, row.languages) == (captions, languages)
    assert list(table.captions()) == [captions]


@pytest.mark.parametrize("output_format", ["parquet", "webdataset", "files"])
def test_a_promptmill_output_is_a_table_of_what_it_has_committed(output_format, tmp_path, s3_bucket):
    for place in (str(tmp_path / "set"), f"{s3_bucket}/set"):
        store, _ = make_output(place, output_format, [3, 0, 2])
        store.remove("_run/shards/000002.json")  # a shard without its record does not exist
        table = open_captioned(place)
        (fragment,) = table.fragments
        found = table.read(fragment, [2, 0])
        assert [row.captions for row in found] == [("a description of 0/2",), ("a description of 0/0",)]
        assert [decode_image(row.image).getpixel((0, 0)) for row in found] == [(2, 80, 200), (0, 80, 200)]
        assert list(table.captions()) == [(f"a description of 0/{row}",) for row in range(3)]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_an_image_folder_with_metadata_is_a_table(kind, tmp_path):
    """The convention of Hugging Face's `imagefolder`: file names are relative to the metadata's directory."""
    rows = [
        {"file_name": f"pictures/{n}.png", "text": f"thing {n}", "weight": float(n), "split": "train"} for n in range(3)
    ]
    for part in ("a", "b"):
        (tmp_path / part / "pictures").mkdir(parents=True)
        for n in range(3):
            (tmp_path / part / "pictures" / f"{n}.png").write_bytes(f"{part}{n}".encode())
        table, path = pa.Table.from_pylist(rows), tmp_path / part / f"metadata.{kind}"
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif kind == "csv":
            pyarrow.csv.write_csv(table, path)
        else:
            pq.write_table(table, path)
    opened = pickle.loads(pickle.dumps(open_captioned(str(tmp_path), split="train")))
    found = [row for fragment in opened.fragments for row in opened.read(fragment)]
    assert [row.image for row in found] == [b"a1", b"a2", b"b1", b"b2"]
    assert [row.captions for row in found] == [("thing 1",), ("thing 2",)] * 2
    assert [fragment.weights for fragment in opened.fragments] == [(1.0, 2.0)] * 2


def test_webdataset_tars_are_a_table(tmp_path):
    for shard in range(2):
        with webdataset.TarWriter(str(tmp_path / f"{shard}.tar")) as sink:
            for n in range(3):
                key = {"__key__": f"{shard}{n}", "png": f"{shard}{n}".encode()}
                sink.write(key | ({"txt": f"thing {n}"} if shard else {"json": {"caption": [f"thing {n}"]}}))
    table = open_captioned(str(tmp_path))
    assert [row.image for fragment in table.fragments for row in table.read(fragment, [2, 0])] == [
        b"02", b"00", b"12", b"10",
    ]  # fmt: skip
    assert list(table.captions()) == [(f"thing {n}",) for n in range(3)] * 2


def test_captions_may_be_named(tmp_path):
    uri = write(tmp_path / "t.parquet", [{"image": PICTURE, "caption": "no", "alt": "yes"}])
    assert list(open_captioned(uri, captions=["alt"]).captions()) == [("yes",)]


def test_splits_and_weights_choose_rows(tmp_path):
    rows = [
        {"image": PICTURE, "caption": str(n), "split": split, "weight": weight}
        for n, (split, weight) in enumerate([("train", 1.0), ("held_out", 1.0), ("train", 0.0), ("train", 2.5)])
    ]
    table = open_captioned(write(tmp_path / "t.parquet", rows), split="train")
    assert [fragment.weights for fragment in table.fragments] == [(1.0,), (2.5,)]
    assert [row.captions for fragment in table.fragments for row in table.read(fragment)] == [("0",), ("3",)]
    assert list(table.captions()) == [("0",), ("3",)]


def test_a_directory_of_files_is_one_table_and_its_content_tells_changes(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / f"{name}.parquet", [{"image": PICTURE, "caption": name}])
    table = open_captioned(str(tmp_path))
    assert list(table.captions()) == [("a",), ("b",)]
    assert open_captioned(str(tmp_path)).content == table.content
    write(tmp_path / "b.parquet", [{"image": PICTURE, "caption": "longer than before"}])
    assert open_captioned(str(tmp_path)).content != table.content


def test_a_picture_may_be_a_file_of_its_own(tmp_path):
    (tmp_path / "a.png").write_bytes(b"from a file")
    for name in (str(tmp_path / "a.png"), "a.png", f"file://{tmp_path}/a.png"):
        uri = write(tmp_path / "t.parquet", [{"image": name, "caption": "a"}])
        table = open_captioned(uri, image_uris=[] if name == "a.png" else [str(tmp_path)])
        assert table.read(table.fragments[0])[0].image == b"from a file"


@pytest.mark.parametrize(
    ("rows", "told", "said"),
    [
        ([{"image": PICTURE, "name": "a"}], {}, "no caption column.*it has image, name: name yours in data.captions"),
        ([{"picture": PICTURE, "caption": "a"}], {}, "no column 'image'; it has picture, caption"),
        ([{"image": PICTURE, "caption": "a"}], {"split": "train"}, "no column 'split'"),
        ([{"image": PICTURE, "caption": "a", "split": "x"}], {"split": "train"}, "no row of split 'train'"),
        ([{"image": PICTURE, "caption": "a", "weight": -1.0}], {}, "row 0 .* has the weight -1.0; a weight is 0 or"),
    ],
)
def test_a_table_that_is_none_is_one_sentence(rows, told, said, tmp_path):
    with pytest.raises(UserError, match=said):
        open_captioned(write(tmp_path / "t.parquet", rows), **told)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image": PICTURE, "caption": " "}, "row 1 of part 0 of '.*' has no caption in caption"),
        ({"image": None, "caption": "a"}, "row 1 of part 0 of '.*' has no picture in column 'image'"),
        ({"image": {"bytes": None, "path": "no/such.png"}, "caption": "a"}, "picture 'no/such.png' of row 1"),
        (
            {"image": {"bytes": None, "path": "/etc/hostname"}, "caption": "a"},
            r"picture '/etc/hostname' of row 1 .* not under a prefix of data.image_uris, .* and is empty",
        ),
        ({"image": PICTURE, "caption": "a" * 100_001}, "row 1 .* has a caption of more than 100,000 characters"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row, said, tmp_path):
    table = open_captioned(write(tmp_path / "t.parquet", [{"image": PICTURE, "caption": "fine"}, row]))
    with pytest.raises(UserError, match=said):
        table.read(table.fragments[0])


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="there is no captioned image table at"):
        open_captioned(str(tmp_path / "none.parquet"))
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"t\.parquet' cannot be read as a table of pictures"):
        open_captioned(str(tmp_path / "t.parquet"))
    for name, content in (("a.tar", b"no tar"), ("metadata.jsonl", b"{"), ("metadata.csv", b"a,b\n1\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}' cannot be read as a table of pictures"):
            open_captioned(str(tmp_path / name))
