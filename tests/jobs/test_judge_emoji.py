"""The judge of emoji: a line for each kind of picture and wording, and figures of the whole."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.errors import UserError
from jobs.judge_emoji import WORDINGS, main
from tests import models
from tests.shapes import save_encoder, save_table


@pytest.fixture
def table(tmp_path) -> Path:
    rows = pq.read_table(save_table(tmp_path / "shapes.parquet")).to_pylist()
    for number, row in enumerate(rows):
        held = number % 8 == 0
        row |= {
            "caption_zh": [row["caption_zh"]], "label_en": row["caption_en"][0], "label_zh": row["caption_zh"],
            "split": "held_out" if held else "train", "recoloured": number % 16 == 5,
            "held_out_kind": "concept" if held else "",
        }  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "emoji.parquet")
    return tmp_path / "emoji.parquet"


def test_each_kind_of_picture_and_wording_has_its_line(table, tmp_path, capsys):
    sheet = tmp_path / "nearest.png"
    main(str(models.save_gan(tmp_path / "gan")), str(save_encoder(tmp_path / "judge")), table, nearest=sheet)
    assert Image.open(sheet).width > 4 * 4 * 16
    said = capsys.readouterr().out
    assert all(wording in said for wording in WORDINGS)
    assert "seen" in said
    assert "held out, concept" in said
    assert said.count("%") == 2 * 4 * len(WORDINGS)
    for line in said.splitlines():
        if "label, en" in line:
            by_label, by_english = [word for word in line.split() if word.endswith("%")][1:3]
            assert by_label == by_english
    for name in ("FD in the judge's features", "sharpness", "nearest training picture", "8 pictures of one label"):
        assert name in said


def test_descriptions_of_an_output_have_a_line_of_their_own(table, tmp_path, capsys):
    (tmp_path / "set/data").mkdir(parents=True)
    labels = {row["label_en"] for row in pq.read_table(table).to_pylist()}
    told = [
        {"prompt": label, "description": f"{label}, seen from far away", "description_status": status}
        for label in labels
        for status in (["accepted"] if "red" in label else ["echo"])
    ]
    pq.write_table(pa.Table.from_pylist(told), tmp_path / "set/data/shard-000000.parquet")
    gan, encoder = str(models.save_gan(tmp_path / "gan")), str(save_encoder(tmp_path / "judge"))
    main(gan, encoder, table, described=tmp_path / "set")
    line = next(line for line in capsys.readouterr().out.splitlines() if "described, en" in line)
    seen = [row for row in pq.read_table(table).to_pylist() if row["split"] == "train" and not row["recoloured"]]
    assert f" {sum('red' in row['label_en'] for row in seen)} " in line
    with pytest.raises(UserError, match="is no output of promptmill synthesize"):
        main(gan, encoder, table, described=tmp_path)


def test_another_table_is_refused(tmp_path):
    gan, judge = models.save_gan(tmp_path / "gan"), save_encoder(tmp_path / "judge")
    with pytest.raises(UserError, match=r"is no table of jobs\.prepare_emoji"):
        main(str(gan), str(judge), save_table(tmp_path / "shapes.parquet"))
