"""The training table from two small npm packages made here: matched by code point, on white, recoloured."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from actors.errors import UserError
from jobs.prepare_emoji import main
from pipeline.emoji import SCHEMA, dominant_hue, shift_hue

# code points in the two spellings that the real packages have, label, tags, group, colour of a disc
EMOJI = [
    ("2764-FE0F", "2764", ("red heart", "红心"), (["love"], ["爱"]), 0, (220, 30, 30)),
    ("1F431", "1F431", ("cat face", "猫脸"), (["cat", "pet"], ["猫"]), 3, (250, 190, 40)),
    ("1F1EF-1F1F5", "1F1EF-1F1F5", ("flag: Japan", "旗: 日本"), (["JP"], ["JP"]), 9, (200, 0, 0)),
    ("1F47B", "1F47B", ("ghost", "鬼"), (["boo"], []), 0, (230, 230, 230)),
]
GROUPS = ["smileys-emotion", "people-body", "component", "animals-nature", "food-drink"]
GROUPS += ["travel-places", "activities", "objects", "symbols", "flags"]


def disc(colour: tuple[int, int, int]) -> bytes:
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(picture).ellipse((8, 8, 56, 56), fill=(*colour, 255))
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return sink.getvalue()


def pictures_package() -> dict[str, bytes]:
    entries = [
        {"unified": code, "image": f"{code.lower()}.png", "has_img_google": True,
         "skin_variations": {"1F3FB": {"unified": f"{code}-1F3FB", "image": f"{code.lower()}-1f3fb.png"}}}
        for code, *_ in EMOJI
    ]  # fmt: skip
    entries.append({"unified": "1F9FF", "image": "1f9ff.png", "has_img_google": False})
    entries.append({"unified": "1F3FB", "image": "1f3fb.png", "has_img_google": True})
    entries.append({"unified": "E50A", "image": "e50a.png", "has_img_google": True})  # has no name
    files = {f"img/google/64/{code.lower()}{tone}.png": disc(colour)
             for code, *_, colour in EMOJI for tone in ("", "-1f3fb")}  # fmt: skip
    files.update({f"img/google/64/{name}.png": disc((9, 9, 9)) for name in ("1f3fb", "e50a")})
    return {**files, "emoji.json": json.dumps(entries).encode()}


def words_package() -> dict[str, bytes]:
    files = {"en/messages.json": json.dumps({"groups": [{"order": n, "key": k} for n, k in enumerate(GROUPS)]})}
    for index, lang in enumerate(("en", "zh")):
        known = [
            {"hexcode": hexcode, "label": labels[index], "tags": tags[index], "group": group}
            for _, hexcode, labels, tags, group, _ in EMOJI
        ]
        known.append({"hexcode": "1F9FF", "label": "nazar", "group": 7})
        known.append({"hexcode": "1F3FB", "label": "light skin tone", "group": 2})
        files[f"{lang}/data.json"] = json.dumps(known)
    return {name: text.encode() for name, text in files.items()}


def pack(files: dict[str, bytes], target: Path) -> Path:
    with tarfile.open(target, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target


def unpack(files: dict[str, bytes], target: Path) -> Path:
    for name, data in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
    return target


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("npm")
    return pack(pictures_package(), root / "pictures.tgz"), pack(words_package(), root / "words.tgz")


@pytest.fixture(scope="module")
def table(packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    target = tmp_path_factory.mktemp("out") / "deep" / "emoji.parquet"
    main([str(packages[0]), str(packages[1]), str(target)])
    return pq.read_table(target)


def pixels(row: dict[str, dict[str, bytes]]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def test_pictures_and_words_meet_by_code_point_whatever_the_variation_selector(table: pa.Table) -> None:
    assert table.schema.equals(SCHEMA)
    rows = [row for row in table.to_pylist() if not row["recoloured"]]
    assert [row["label_en"] for row in rows] == ["red heart", "cat face", "flag of Japan", "ghost"]
    assert [row["label_zh"] for row in rows] == ["红心", "猫脸", "日本国旗", "鬼"]
    assert rows[1]["tags_en"] == ["cat", "pet"]
    assert rows[1]["group"] == "animals-nature"


def test_skin_tones_components_and_nameless_pictures_are_left_out(table: pa.Table) -> None:
    assert not any("1F3FB" in row["hexcode"] or row["hexcode"] in {"1F9FF", "E50A"} for row in table.to_pylist())


def test_pictures_stand_on_white(table: pa.Table) -> None:
    for row in table.to_pylist():
        picture = pixels(row)
        assert picture.shape == (64, 64, 3)
        assert (picture[0, 0] == 255).all()
        assert not (picture[32, 32] == 255).all()


def test_things_of_one_hue_come_in_other_colours_and_flags_do_not(table: pa.Table) -> None:
    rows = table.to_pylist()
    recoloured = {row["label_en"] for row in rows if row["recoloured"]}
    assert recoloured == {"red heart", "cat face"}
    hearts = {row["colour"]: row for row in rows if row["label_en"] == "red heart"}
    assert {"red", "green", "blue", "yellow"} <= set(hearts)
    assert not hearts["red"]["recoloured"], "its own colour is its own picture"
    for colour, channel in {"red": 0, "green": 1, "blue": 2}.items():
        assert pixels(hearts[colour])[32, 32].argmax() == channel
    assert len({row["image"]["path"] for row in rows}) == len(rows)


def test_table_is_the_same_each_time_and_from_unpacked_packages(
    packages: tuple[Path, Path], table: pa.Table, tmp_path: Path
) -> None:
    folders = unpack(pictures_package(), tmp_path / "pictures"), unpack(words_package(), tmp_path / "words")
    for number, (pictures, words) in enumerate([packages, folders]):
        main([str(pictures), str(words), str(tmp_path / f"{number}.parquet")])
        assert pq.read_table(tmp_path / f"{number}.parquet").equals(table)


def test_wrong_packages_are_named(packages: tuple[Path, Path], tmp_path: Path) -> None:
    target = str(tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"nowhere\.tgz"):
        main([str(tmp_path / "nowhere.tgz"), str(packages[1]), target])
    with pytest.raises(UserError, match="right npm package"):
        main([str(packages[1]), str(packages[0]), target])
    with pytest.raises(UserError, match="usage"):
        main([target])
    assert not Path(target).exists()


def test_dominant_hue_is_that_of_the_coloured_part_alone() -> None:
    picture = np.full((16, 16, 3), 255, np.uint8)
    assert dominant_hue(picture) is None
    picture[:8] = (0, 0, 200)
    assert dominant_hue(picture) == pytest.approx(2 / 3, abs=0.01)
    picture[8:] = (200, 200, 0)
    assert dominant_hue(picture) is None, "two opposite hues are no one colour"


def test_hue_that_straddles_red_is_red() -> None:
    """Hues of 0.98 and 0.02 must not average to cyan."""
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0], picture[1] = (200, 0, 24), (200, 24, 0)
    hue = dominant_hue(picture)
    assert hue is not None
    assert min(hue, 1 - hue) < 0.02


def test_shift_of_hue_leaves_greys_and_outlines() -> None:
    picture = np.zeros((1, 3, 3), np.uint8)
    picture[0] = [(200, 20, 20), (128, 128, 128), (20, 0, 0)]
    shifted = shift_hue(picture, 1 / 3)
    assert shifted[0, 0].argmax() == 1
    assert (shifted[0, 1:] == picture[0, 1:]).all()
