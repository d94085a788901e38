"""Whatever prompts, descriptions, columns and options say: the pages have the elements that they have without them."""

from __future__ import annotations

import asyncio
import functools
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import html5lib
import httpx2
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from actors.chat_endpoint import ChatEndpoint, Refusal, TryAgain
from jobs.cli import main
from pipeline.card import read_front_matter, render_card
from pipeline.facts import Facts, read_schema
from pipeline.inert_text import printable
from pipeline.morning import Night, sentence
from pipeline.page import render_page
from pipeline.read_output import OutputRow, sample_rows
from pipeline.report import render_report
from pipeline.summary import add_up
from tests.pipeline.outputs import make_output
from tests.pipeline.sound_outputs import make_sound_output

# What breaks out of something, in any order and amidst anything else.
_PIECES = st.sampled_from([
    "<script>", "</script>", "</style>", "</title>", "<img src=x onerror=alert(1)>", "<!--", "-->", "]]>", '"', "'",
    "`", "```", "~~~", "&lt;", "&#60;", "![x](http://e)", "[x](javascript:1)", "<http://e.org>", "http://e.org",
    "\n# h\n", "\n---\n", "\n===\n", "|", "\\", "\n\n    code", "* ", "1. ", "{{ 7*7 }}", "{% raw %}", "\x00",
    "\x1b[31m", "\u202e", "\u2028", "\x85", "\r", "[link=http://e]", "a", "猫", "=cmd()", "<a href='x'", "on",
    " style=x ",
])  # fmt: skip
_TEXT = st.one_of(
    st.lists(_PIECES, max_size=8).map("".join), st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
)
_CONTROLS = set(map(chr, [*range(9), *range(11, 32), *range(127, 160)])) | set(
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2069"
)
# The same texts each time, but where more are asked for: then `--hypothesis-seed` says which.
_MORE = int(os.environ.get("HOSTILE_EXAMPLES", "0"))
_SETTINGS = settings(
    max_examples=_MORE or 20, deadline=None, derandomize=not _MORE, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Facts, OutputRow]:
    store, records = make_output(tmp_path_factory.mktemp("out"), "parquet", [1], pa.table({"tag": ["x"]}))
    run = __import__("json").loads(store.read("_run/run.json") or b"")
    facts = Facts(run, add_up(records), read_schema(store, "parquet", records), "title", "mit")
    return facts, sample_rows(store, "parquet", records, 1)[0]


def filled(facts: Facts, text: str) -> Facts:
    """The facts with the text in every place that a user, a table or a model can write."""
    run, identity = facts.run, facts.run["identity"]
    config = {**identity["config"], "seed": text, "prompts": {text: text, "column": text}}
    totals = replace(facts.totals, reasons=Counter({text: 2}), descriptions=Counter({text: 1}))
    run = {
        **run,
        "identity": {**identity, "config": config, "recipes": {text: text}},
        "columns": {"carried": [text], "honoured": []},
        "models": {"expand": text, "generate": f"s3://{text}", "select": None},
        "versions": {"promptmill": text},
    }
    return replace(facts, run=run, totals=totals, title=text, license=text, languages=[text])


def shape(page: str) -> Counter[tuple[str, ...]]:
    """Elements with the names of their attributes, as a browser's parser sees them."""
    # The style sheet is one text, most of the page, and the same everywhere: parsing it costs the time of the test.
    page = re.sub(r"(?s)<style>.*?</style>", "<style></style>", page, count=1)
    found = html5lib.parse(page, treebuilder="etree", namespaceHTMLElements=False)
    return Counter((str(node.tag), *sorted(node.attrib)) for node in found.iter())


@functools.cache
def tame_shape(page: str) -> Counter[tuple[str, ...]]:
    """The same of a page that is the same each time."""
    return shape(page)


def report(facts: Facts, row: OutputRow, text: str) -> str:
    values = {**row.values, "id": text, "prompt": text, "description": f"{text} d", "description_status": text}
    return render_report(filled(facts, text), None, [OutputRow(0, values, row.image)], evaluation(text))


def evaluation(text: str) -> dict[str, object]:
    line = {"name": text, "value": 1.0, "low": None, "high": None, "n": 1, "how": text, "better": None}
    features = {"name": text, "model": text, "dimensions": 2, "resampler": text}
    return {"generated": {"uri": text, "images": 1}, "reference": None, "features": features, "promptmill": text,
            "warnings": [text], "metrics": [line]}  # fmt: skip


@_SETTINGS
@given(text=_TEXT.filter(str.strip))
def test_html_pages_gain_no_element_and_no_attribute(plain: tuple[Facts, OutputRow], text: str) -> None:
    facts, row = plain
    pages = {
        "report": (report(facts, row, text), report(facts, row, "w")),
        "evaluation": tuple(render_page("evaluation.html.j2", evaluation=evaluation(told)) for told in (text, "w")),
        "refine": tuple(
            render_page("refine.html.j2", title=told, prompts=1, ended=told, rounds=[]) for told in (text, "w")
        ),
        "training": tuple(
            render_page("train_report.html.j2", title=told, phases=[(told, [])], last=None, hours=0.0,
                        sheets=[(told, 1, "")], config=told)
            for told in (text, "w")
        ),
    }  # fmt: skip
    for name, (page, tame) in pages.items():
        assert shape(page) == tame_shape(tame), name
        assert not _CONTROLS & set(page), name
        assert "default-src 'none'" in page


@_SETTINGS
@given(text=_TEXT.filter(str.strip))
def test_the_card_gains_no_link_picture_html_or_heading(plain: tuple[Facts, OutputRow], text: str) -> None:
    def kinds(card: str) -> Counter[str]:
        _, _, body = card.removeprefix("---\n").partition("\n---\n")
        found: Counter[str] = Counter()
        # GitHub makes links of bare addresses too; the parser's own needs a further package.
        for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(body):
            found.update([token.type])
            found.update(
                child.type for child in token.children or [] if child.type not in {"text", "softbreak", "text_special"}
            )
        return found

    card, tame = render_card(filled(plain[0], text)), render_card(filled(plain[0], "w"))
    wanted = (
        "link_open",
        "image",
        "html_block",
        "html_inline",
        "heading_open",
        "table_open",
        "tr_open",
        "td_open",
        "hr",
        "fence",
    )
    assert {kind: kinds(card)[kind] for kind in wanted} == {kind: kinds(tame)[kind] for kind in wanted}
    assert not _CONTROLS & set(card)
    assert read_front_matter(card.encode()).keys() == read_front_matter(tame.encode()).keys()


@_SETTINGS
@given(text=_TEXT.filter(str.strip))
def test_a_line_for_the_terminal_is_one_line_without_controls(text: str) -> None:
    shown = printable(text)
    assert not _CONTROLS & set(shown)
    assert len(shown.splitlines()) <= 1


@_SETTINGS
@given(text=_TEXT.filter(str.strip))
def test_a_nights_summary_is_plain_text(text: str) -> None:
    night = Night("2026-11-26", "s3://bucket/set/2026-11-26", remarks=[text], error=sentence(ValueError(text)))
    document = night.document()
    for value in (document["text"], document["error"], *document["remarks"]):
        assert not _CONTROLS & set(value)
        assert len(value.splitlines()) <= 1
    # What chat services make a link, a picture or a call of.
    assert not set("<>@") & set(document["text"])


@pytest.mark.parametrize("status", [400, 422, 500, 503])
def test_an_endpoints_own_words_are_told_only_where_they_are_plain(status: int) -> None:
    hostile = "\x1b[2Ja prompt\nforged: line"
    error = {"code": hostile, "type": hostile, "param": hostile, "message": hostile}
    transport = httpx2.MockTransport(lambda request: httpx2.Response(status, json={"error": error}))
    endpoint = ChatEndpoint("http://h/v1", "key", "KEY", timeout=1, connections=1)
    endpoint._client = httpx2.AsyncClient(transport=transport)
    try:
        answer = asyncio.run(endpoint.ask({}))
        assert isinstance(answer, Refusal)
        told = answer.why
    except TryAgain as again:
        told = again.why
    assert told == f"status {status}"


def test_verifys_json_is_printable_whatever_a_store_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sound_output(tmp_path / "out", "parquet", 1)
    for name in ("a\x1b[2J\x9b31m", "b\u202egnp", "c\udcff"):
        (tmp_path / "out/data" / name).write_bytes(b"")
    main(["verify", str(tmp_path / "out"), "--json", "-", "--quiet"])
    out = capsys.readouterr().out
    assert "orphan" in out
    assert not (_CONTROLS - {"\n"}) & set(out)
    assert out.isascii()


def test_metric_names_of_a_foreign_evaluation_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobs import evaluate
    from pipeline.compare import Difference

    hostile = "[link=http://e]x[/link] \x1b[31m\u202e"
    one = Difference(hostile, 1.0, 2.0, 1.0, 0.0, 2.0, 9, "better")
    monkeypatch.setattr("pipeline.compare.compare", lambda first, second: ([one], [hostile]))
    monkeypatch.setattr("pipeline.judged.read_judged", lambda uri: None)
    monkeypatch.setattr(evaluate, "_console", lambda: Console(force_terminal=True, width=200))
    evaluate.run_compare("a", "b")
    out = capsys.readouterr().out
    assert "[link=http://e]x[/link]" in out
    assert "\x1b]8" not in out
    assert "\u202e" not in out


def test_ids_never_become_paths(tmp_path: Path) -> None:
    from pipeline.commit import ShardCommitter, ShardResult
    from pipeline.formats import FORMATS
    from pipeline.formats.base import ShardImages
    from pipeline.storage import Store
    from tests.pipeline.outputs import FINGERPRINT, output_table, png, reject_table

    ids = [
        "../../x",
        "/etc/x",
        "a/b",
        "a\x00b",
        "x" * 5000,
        "CON",
        "nul.png",
        "-rf",
        "а",
        "a",
        "A",
        "..",
        ".",
        "",
        "a\\b",
    ]
    for output_format in FORMATS:
        store = Store(str(tmp_path / output_format / "out"))
        rows = output_table(0, len(ids)).set_column(0, "id", pa.array(ids, pa.string()))
        rejects = reject_table(["bad"] * len(ids)).set_column(0, "id", pa.array(ids, pa.string()))
        result = ShardResult(0, 2 * len(ids), rows, ShardImages(png, "png"), rejects, {"descriptions": {}, "tokens": 0})
        ShardCommitter(store, output_format, FINGERPRINT).commit(result)
        names = [
            str(path.relative_to(tmp_path / output_format))
            for path in (tmp_path / output_format).rglob("*")
            if path.is_file()
        ]
        assert all(
            name.startswith(("out/data/shard-000000", "out/rejects/shard-000000-", "out/_run/shards/"))
            for name in names
        )
        if output_format == "webdataset":
            import tarfile

            with tarfile.open(tmp_path / output_format / "out/data/shard-000000.tar") as tar:
                keys = {name.partition(".")[0] for name in tar.getnames()} - {"promptmill-shard"}
            assert keys == {f"000000-{row:06d}" for row in range(len(ids))}
