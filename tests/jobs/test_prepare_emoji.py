"""The captioned table from two small npm packages made here: captions, weights, the held-out split, the card."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, ImageDraw

from actors.contracts import Description, TextJob
from actors.errors import UserError
from jobs.prepare_emoji import run
from pipeline.emoji import Emoji, read_packages
from pipeline.emoji_descriptions import SHIPPED, read_descriptions, recolour_description, write_descriptions
from pipeline.emoji_table import make_table, table_schema
from pipeline.held_out import HeldOut, choose_held_out
from pipeline.recolour import colour_name, dominant_hue, on_white, shift_hue, twins
from pipeline.sample_sheet import SHEET

# code points in the two spellings that the real packages have, label, tags, group, colour of a disc
EMOJI = [
    ("2764-FE0F", "2764", ("red heart", "红心"), (["love"], ["爱"]), 0, (220, 30, 30)),
    ("1F431", "1F431", ("cat face", "猫脸"), (["cat", "pet"], ["猫"]), 3, (250, 190, 40)),
    ("1F1EF-1F1F5", "1F1EF-1F1F5", ("flag: Japan", "旗: 日本"), (["JP"], ["JP"]), 9, (200, 0, 0)),
    ("1F47B", "1F47B", ("ghost", "鬼"), (["boo"], []), 0, (230, 230, 230)),
    ("26FA", "26FA", ("tent", "帐篷"), (["camp"], []), 5, (120, 120, 120)),
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
    about = {"name": "emoji-datasource-google", "version": "16.0.0"}
    return {**files, "emoji.json": json.dumps(entries).encode(), "package.json": json.dumps(about).encode()}


def words_package() -> dict[str, bytes]:
    files = {"en/messages.json": json.dumps({"groups": [{"order": n, "key": k} for n, k in enumerate(GROUPS)]})}
    for index, lang in ((0, "en"), (1, "zh"), (1, "ja")):
        known = [
            {"hexcode": hexcode, "label": labels[index], "tags": tags[index], "group": group}
            for _, hexcode, labels, tags, group, _ in EMOJI
        ]
        known.append({"hexcode": "1F9FF", "label": "nazar", "group": 7})
        known.append({"hexcode": "1F3FB", "label": "light skin tone", "group": 2})
        files[f"{lang}/data.json"] = json.dumps(known)
    files["package.json"] = json.dumps({"name": "emojibase-data", "version": "17.0.0"})
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
    run(*packages, target, held_out=0)
    return pq.read_table(target)


def pixels(row: dict[str, dict[str, bytes]]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def test_pictures_and_words_meet_by_code_point_whatever_the_variation_selector(table: pa.Table) -> None:
    assert table.schema.equals(table_schema(["en", "zh"]))
    rows = [row for row in table.to_pylist() if not row["recoloured"]]
    assert [row["label_en"] for row in rows] == ["red heart", "cat face", "flag of Japan", "ghost", "tent"]
    assert [row["label_zh"] for row in rows] == ["红心", "猫脸", "日本国旗", "鬼", "帐篷"]
    assert rows[1]["group"] == "animals-nature"


def test_several_captions_in_each_language_with_the_plain_label_first(table: pa.Table) -> None:
    for row in table.to_pylist():
        for lang in ("en", "zh"):
            captions = row[f"caption_{lang}"]
            assert len(captions) == len(set(captions)) == 24
            if not row["recoloured"]:
                assert captions[0] == row[f"label_{lang}"]
    heart = {row["colour"]: row for row in table.to_pylist() if row["label_en"] == "red heart"}["green"]
    assert heart["caption_en"][0] == "green heart"
    assert heart["caption_zh"][0] == "绿色心"
    assert all("green" in text.lower() and "red" not in text.lower().split() for text in heart["caption_en"])


def test_recoloured_copies_weigh_35_of_100_together(table: pa.Table) -> None:
    rows = table.to_pylist()
    copies = sum(row["weight"] for row in rows if row["recoloured"])
    assert copies / sum(row["weight"] for row in rows) == pytest.approx(0.35)
    assert {row["weight"] for row in rows if not row["recoloured"]} == {1.0}


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
        run(pictures, words, tmp_path / f"{number}.parquet", held_out=0)
        assert pq.read_table(tmp_path / f"{number}.parquet").equals(table)
    run(*packages, tmp_path / "other.parquet", held_out=0, seed=1)
    other = pq.read_table(tmp_path / "other.parquet")
    assert other["caption_en"] != table["caption_en"]
    assert other["image"] == table["image"]


def test_other_languages_have_their_own_columns(packages: tuple[Path, Path], tmp_path: Path) -> None:
    run(*packages, tmp_path / "x.parquet", languages=["en", "ja"], held_out=0)
    table = pq.read_table(tmp_path / "x.parquet")
    assert "caption_ja" in table.column_names
    assert "caption_zh" not in table.column_names
    rows = table.to_pylist()
    assert rows[0]["caption_ja"][0] == "红心"
    assert all(row["caption_ja"] == [] for row in rows if row["recoloured"]), "there are no colour words for it"


def test_wrong_packages_languages_and_descriptions_are_named(packages: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "x.parquet"
    with pytest.raises(UserError, match=r"nowhere\.tgz"):
        run(tmp_path / "nowhere.tgz", packages[1], target)
    with pytest.raises(UserError, match="right npm package"):
        run(packages[1], packages[0], target)
    with pytest.raises(UserError, match=r"xx/data\.json"):
        run(*packages, target, languages=["en", "xx"], held_out=0)
    with pytest.raises(UserError, match="--languages"):
        run(*packages, target, languages=["en", "../en"], held_out=0)
    with pytest.raises(UserError, match=r"none\.txt"):
        run(*packages, target, descriptions=tmp_path / "none.txt", held_out=0)
    with pytest.raises(UserError, match="100 are wanted"):
        run(*packages, target)
    (tmp_path / "no.tgz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="is no npm package"):
        run(tmp_path / "no.tgz", packages[1], target)
    assert not target.exists()


def test_card_tells_licences_versions_counts_and_what_is_held_out(packages: tuple[Path, Path], tmp_path: Path) -> None:
    run(*packages, tmp_path / "x.parquet", held_out=1)
    _, header, text = (tmp_path / "x.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "apache-2.0"
    assert yaml.safe_load(header)["language"] == ["en", "zh"]
    (held,) = [row for row in pq.read_table(tmp_path / "x.parquet").to_pylist() if row["split"] == "held_out"]
    assert f"unrelated concepts (1): {held['label_en']}." in text
    assert held["held_out_kind"] == "concept"
    for fact in ("emoji-datasource-google 16.0.0", "emojibase-data 17.0.0", "Apache-2.0", "| pictures held out | 1 |",
                 "| skin-tone variants left out | 5 |"):  # fmt: skip
        assert fact in text, fact


class Describer:
    """Stands in for the language model; ``fails`` after so many batches."""

    def __init__(self, fails: int = 99) -> None:
        self.asked: list[str] = []
        self.left = fails

    def expand(self, jobs: list[TextJob]) -> list[Description]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += [job.prompt for job in jobs]
        return [
            Description(job.prompt, "echo", 1) if job.prompt == "ghost"
            else Description(f"{job.prompt.capitalize()}, in the wind.", "accepted", 3)
            for job in jobs
        ]  # fmt: skip


def test_descriptions_are_written_used_and_not_asked_for_again(packages: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = Describer(), Describer()
    run(*packages, tmp_path / "x.parquet", describe=True, build=lambda: first, held_out=0)
    assert sorted(first.asked) == ["cat face", "flag of Japan", "ghost", "red heart", "tent"]
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert rows[0]["caption_en"][:2] == ["red heart", "Red heart, in the wind."]
    copy = next(row for row in rows if row["recoloured"] and row["colour"] == "green")
    assert copy["caption_en"][:2] == ["green heart", "Green heart, in the wind."]
    assert not any("in the wind" in text for row in rows if row["label_en"] == "ghost" for text in row["caption_en"])
    run(*packages, tmp_path / "x.parquet", describe=True, build=lambda: second, held_out=0)
    assert second.asked == []
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == rows


def test_describing_goes_on_after_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    labels = {f"{n:04X}": f"thing {n:03d}" for n in range(100)}
    path = tmp_path / "d.txt"
    with pytest.raises(KeyboardInterrupt):
        write_descriptions(labels, path, lambda: Describer(1), lambda text: None)
    whole = path.read_text()
    path.write_text(whole[:-8])
    second = Describer()
    found = write_descriptions(labels, path, lambda: second, lambda text: None)
    assert len(second.asked) == 100 - 64 + 1
    assert found == read_descriptions(path, labels) == {h: f"{x.capitalize()}, in the wind." for h, x in labels.items()}
    assert len(path.read_text().splitlines()) == 100


def test_description_of_another_label_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("1F\told name\tOld name, here.\n2F\tcat\tCat, there.\n")
    assert read_descriptions(tmp_path / "d.txt", {"1F": "new name", "2F": "cat"}) == {"2F": "Cat, there."}


def test_description_of_a_copy_has_its_colour_or_is_left_out() -> None:
    colours = {"red", "blue"}
    assert recolour_description("Red apple, on a tree.", "red apple", "blue apple", colours) == "Blue apple, on a tree."
    assert recolour_description("Red apple, with red skin.", "red apple", "blue apple", colours) is None
    assert recolour_description("A fruit.", "red apple", "blue apple", colours) is None


def test_shipped_descriptions_are_of_the_real_names_and_small() -> None:
    lines = [line.split("\t") for line in SHIPPED.read_text(encoding="utf-8").splitlines()]
    assert all(len(line) == 3 for line in lines)
    assert len({line[0] for line in lines}) == len(lines) > 1800
    assert sum(bool(line[2]) for line in lines) > 1700
    assert SHIPPED.stat().st_size < 400_000


ROLES = [f"{letter}er" for letter in "abcdefghijklmnopqrstuvwxyz"]
SHAPES = {shape: ["red", "yellow", "green", "blue", "purple", "pink"] for shape in ("heart", "circle")}
RGB = {"red": (220, 20, 20), "yellow": (220, 200, 20), "green": (20, 200, 40), "blue": (20, 110, 220),
       "purple": (140, 30, 220), "pink": (220, 30, 120)}  # fmt: skip


def crowd() -> tuple[list[Emoji], list[np.ndarray]]:
    """Pictures of 26 roles in three forms, of shapes in colours, and of things; all of them different."""
    named = [(f"{gender}{role}", "people-body", None) for role in ROLES for gender in ("woman ", "man ", "")]
    named += [(f"{colour} {shape}", "symbols", colour) for shape, colours in SHAPES.items() for colour in colours]
    named += [(name, "objects", "red") for name in ("sparkling ruby", "heart box", "gem box")]
    named += [(name, "people-body", None) for name in ("teacher", "woman teacher", "man teacher")]
    named += [("robot", "objects", None)]
    things = [f"{a}{b}oon" for a in "bcdfghk" for b in "aeiou"]
    named += [(name, "food-drink" if name < "f" else "objects", None) for name in things]
    emoji, pictures = [], []
    for number, (name, group, colour) in enumerate(named):
        picture = np.full((64, 64, 3), 255, np.uint8)
        cells = np.random.default_rng(number).random((8, 8)) < 0.5
        picture[np.kron(cells, np.ones((8, 8))).astype(bool)] = RGB.get(colour or "", (90, 90, 90))
        tags = ["heart"] if name == "sparkling ruby" else []
        zh = f"第{number}"
        emoji.append(Emoji(f"{number:04X}", group, b"", {"en": name, "zh": zh}, {"en": tags, "zh": []}))
        pictures.append(picture)
    return emoji, pictures


@pytest.fixture(scope="module")
def split() -> tuple[list[dict[str, Any]], Mapping[str, str]]:
    emoji, pictures = crowd()
    held = choose_held_out(emoji, twins(pictures), 0, 40)
    return make_table(emoji, pictures, held, {}, ["en", "zh"], 0).to_pylist(), held.kinds


def named(rows: list[dict[str, Any]], split: str, kind: str | None = None) -> set[str]:
    return {
        row["label_en"] for row in rows
        if row["split"] == split and not row["recoloured"] and kind in (None, row["held_out_kind"])
    }  # fmt: skip


def test_held_out_people_have_their_role_and_gender_in_training(split: tuple[list[dict[str, Any]], Any]) -> None:
    rows, kinds = split
    assert len(kinds) == len(named(rows, "held_out")) == 40
    people, trained = named(rows, "held_out", "role_gender"), named(rows, "train")
    assert len(people) == 18
    for name in people:
        gender, role = name.split()
        assert {role, f"{'man' if gender == 'woman' else 'woman'} {role}"} <= trained
    assert {name.split()[0] for name in people} == {"woman", "man"}


def test_held_out_shapes_come_in_other_colours_in_training_and_never_in_their_own(
    split: tuple[list[dict[str, Any]], Any],
) -> None:
    """By recolouring, the red circle would become the held-out blue one; a keyword says that a ruby is a heart."""
    rows, _ = split
    shapes, trained = named(rows, "held_out", "shape_colour"), named(rows, "train")
    assert len(shapes) == 6
    for name in shapes:
        colour, shape = name.split()
        assert len([other for other in trained if other.endswith(f" {shape}")]) == 3
        shown = [row for row in rows if row["split"] == "train" and row["colour"] == colour]
        assert shown, "the colour itself is in training"
        hearts = {"heart box", "sparkling ruby"} if shape == "heart" else set()
        assert not [row["label_en"] for row in shown if row["label_en"].endswith(shape) or row["label_en"] in hearts]


def test_no_training_caption_names_what_is_held_out(split: tuple[list[dict[str, Any]], Any]) -> None:
    rows, _ = split
    secret = named(rows, "held_out")
    for row in rows:
        if row["split"] == "train":
            for text in row["caption_en"]:
                words = text.lower().replace(",", "").replace(".", "")
                assert not any(f" {name} " in f" {words} " for name in secret), text


def test_keywords_do_not_name_what_is_held_out() -> None:
    """A ruby that is called a heart must not be called a red one, nor a wolf a fox, where those are held out."""
    emoji, pictures = crowd()
    ruby = next(n for n, entry in enumerate(emoji) if entry.labels["en"] == "sparkling ruby")
    wolf = Emoji("WOLF", "animals-nature", b"", {"en": "wolf"}, {"en": ["fox", "den"]})
    held = HeldOut({}, frozenset({("red", "heart")}), {"en": ["fox"]})
    rows = make_table([emoji[ruby], wolf], [pictures[ruby], pictures[0]], held, {"WOLF": "Fox."}, ["en"], 0).to_pylist()
    assert rows[0]["label_en"] == "sparkling ruby"
    assert rows[0]["colour"] is None
    assert not any("red" in text.lower().split() for text in rows[0]["caption_en"])
    assert any("den" in text for text in rows[-1]["caption_en"])
    assert not any("fox" in text.lower() for text in rows[-1]["caption_en"])


def test_copies_of_what_is_held_out_are_in_no_split(split: tuple[list[dict[str, Any]], Any]) -> None:
    rows, kinds = split
    assert not any(row["recoloured"] and row["hexcode"] in kinds for row in rows)
    assert not any(row["recoloured"] and row["split"] != "train" for row in rows)


def test_names_on_the_sample_sheet_are_never_held_out() -> None:
    emoji, pictures = crowd()
    for seed in range(20):
        held = choose_held_out(emoji, twins(pictures), seed, 40)
        assert not {entry.labels["en"] for entry in emoji if entry.hexcode in held.kinds} & set(SHEET)


def test_picture_with_a_twin_is_never_held_out() -> None:
    emoji, pictures = crowd()
    pictures[1] = pictures[0][:, ::-1].copy()  # "man aer" is the mirror image of "woman aer"
    pictures[4] = np.clip(pictures[3].astype(int) - 3, 0, 255).astype(np.uint8)
    same = twins(pictures)
    assert same[0] == {1}
    assert same[3] == {4}
    assert not any(same[5:])
    for seed in range(20):
        held = choose_held_out(emoji, same, seed, 40)
        assert not {f"{number:04X}" for number in (0, 1, 3, 4)} & set(held.kinds)


def test_copy_that_looks_like_a_held_out_picture_is_dropped() -> None:
    emoji, pictures = crowd()
    held = choose_held_out(emoji, twins(pictures), 0, 40)
    secret = next(
        n for n, entry in enumerate(emoji) if entry.labels["en"].endswith("circle") and entry.hexcode in held.kinds
    )
    gem = next(n for n, entry in enumerate(emoji) if entry.labels["en"] == "gem box")
    pictures[gem] = shift_hue(pictures[secret], 0.5)
    colour = emoji[secret].labels["en"].split()[0]
    rows = make_table(emoji, pictures, held, {}, ["en"], 0).to_pylist()
    copies = {row["colour"] for row in rows if row["label_en"] == "gem box" and row["recoloured"]}
    assert copies
    assert colour not in copies


def test_split_is_the_same_each_time_and_differs_by_seed() -> None:
    emoji, pictures = crowd()
    first, again, other = (choose_held_out(emoji, twins(pictures), seed, 40).kinds for seed in (0, 0, 1))
    assert first == again != other


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


def test_dark_orange_is_brown() -> None:
    picture = np.full((16, 16, 3), 255, np.uint8)
    picture[:8] = (130, 70, 20)
    assert colour_name(picture) == "brown"
    picture[:8] = (250, 130, 20)
    assert colour_name(picture) == "orange"


def test_english_is_read_whatever_the_languages_are(packages: tuple[Path, Path]) -> None:
    (heart, *_) = read_packages(*packages, ["zh"]).emoji
    assert heart.labels == {"en": "red heart", "zh": "红心"}
    assert on_white(heart.png)[0, 0].tolist() == [255, 255, 255]
