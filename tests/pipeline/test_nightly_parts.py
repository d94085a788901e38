"""What surrounds a nightly run, each part alone: dates, the pointer, retention, the morning's summary."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import shutil
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from actors.errors import JobError, UserError
from pipeline.config import SynthesizeConfig
from pipeline.latest import LATEST, Pointer, move, pointer_to, read_pointer
from pipeline.morning import Night, check_target, deliver
from pipeline.nightly import nightly
from pipeline.nightly_config import Nightly, NightlyConfig
from pipeline.retention import delete_older, delete_output, put_note
from pipeline.run_date import DatedPlace, dated, dated_place, run_date
from pipeline.run_record import RUN
from pipeline.storage import Store
from pipeline.swap import replace_file
from pipeline.synthesize import Interrupted
from pipeline.verify import verify
from tests.pipeline.sound_outputs import make_sound_output


def test_the_date_fills_its_places_and_anything_else_is_a_sentence() -> None:
    assert run_date(None) == dt.datetime.now(dt.UTC).date().isoformat()
    for wrong in ("2026-02-30", "26-11-2026", "2026-1-1", "20261126", "yesterday"):
        with pytest.raises(UserError, match="is no date; write it as --date YYYY-MM-DD"):
            run_date(wrong)
    config = SynthesizeConfig.model_validate(
        {"output": {"uri": "s3://b/set/{date}"}, "prompts": {"uri": "s3://b/in/{date}/*.parquet"}}
    )
    filled = dated(config, "2026-11-26")
    assert (filled.output.uri, filled.prompts.uri) == ("s3://b/set/2026-11-26", "s3://b/in/2026-11-26/*.parquet")
    assert filled.identity() == config.identity(), "the date is a place, not an identity"
    with pytest.raises(UserError, match=re.escape("output.uri holds {date}: say which with --date")):
        dated(config, None)
    other = SynthesizeConfig.model_validate({"output": {"uri": "s3://b/{day}"}})
    with pytest.raises(UserError, match=re.escape("output.uri has the placeholder {day}; the only one there is")):
        dated(other, "2026-11-26")

    place = dated_place("s3://b/set/v2-{date}-x/")
    assert place == DatedPlace("s3://b/set", "v2-", "-x")
    assert place.date_of(place.name("2026-11-26")) == "2026-11-26"
    assert [place.date_of(n) for n in ("v2-2026-13-01-x", "2026-11-26", "v2--x", "v2-2026-11-26")] == [None] * 4
    for wrong in ("s3://{date}", "s3://b/set", "s3://b/{date}/set", "out/{date}-{date}"):
        with pytest.raises(UserError, match="once, in its last part"):
            dated_place(wrong)


def pointer(date: str, template: str = "{date}") -> Pointer:
    return Pointer(date, template.replace("{date}", date), template, "f" * 64, 3, 3, 0, 3, False)


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_the_pointer_moves_forward_alone_unless_told(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    parent = Store(str(tmp_path) if kind == "local" else f"{request.getfixturevalue('s3_bucket')}/set")
    assert read_pointer(parent) is None
    first = move(parent, pointer("2026-11-25"))
    assert first.moved
    later = move(parent, pointer("2026-11-27"))
    # Swift answers 501 to a put with If-Match, and that is said, not passed over.
    assert (later.moved, later.atomic) == (True, kind == "local")
    assert not move(parent, pointer("2026-11-27")).moved
    assert move(parent, pointer("2026-11-26")).pointer.date == "2026-11-27"
    assert move(parent, pointer("2026-11-26"), back=True).moved
    told = read_pointer(parent)
    assert told == pointer("2026-11-26")
    assert json.loads(parent.read(LATEST) or b"")["format"] == 1
    assert [e.name for e in parent.list("") if "probe" in e.name] == []
    with pytest.raises(UserError, match=re.escape("points to outputs named {date}, this run's are named v2-{date}")):
        move(parent, pointer("2026-11-28", "v2-{date}"))
    for strange in (b"{}", b'{"format": 1, "date": "x"}', b"[1]", b"\xff"):
        parent.replace(LATEST, strange)
        with pytest.raises(UserError, match="is no pointer of promptmill"):
            move(parent, pointer("2026-11-28"))
    parent.replace(LATEST, b'{"format": 2}')
    with pytest.raises(UserError, match="format version 2"):
        read_pointer(parent)


def test_of_many_that_move_the_pointer_at_once_the_newest_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(target: Path, data: bytes) -> None:
        time.sleep(0.005)  # between comparison and change: without a lock all of them are here at once
        replace_file(target, data)

    monkeypatch.setattr("pipeline.swap.replace_file", slowly)
    dates = [f"2026-11-{day:02d}" for day in range(1, 25)]
    threads = [
        threading.Thread(target=move, args=(Store(str(tmp_path)), pointer(date))) for date in [*dates[12:], *dates[:12]]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_pointer(Store(str(tmp_path))) == pointer(dates[-1])


class ConditionalS3(BaseHTTPRequestHandler):
    """As much of S3 as one object needs, with the conditions that AWS honours on a put."""

    objects: dict[str, bytes]
    lock: threading.Lock
    honours = True
    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, body: bytes = b"", etag: str | None = None, code: str = "") -> None:
        if code:
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
            self.send_header("Last-Modified", "Thu, 26 Nov 2026 03:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        found = self.objects.get(self.path)
        if found is None:
            self._answer(404, code="NoSuchKey")
        else:
            self._answer(200, found, _etag(found))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "chunked" in self.headers.get("Content-Encoding", ""):
            size, _, rest = body.partition(b"\r\n")
            body = rest[: int(size.split(b";")[0], 16)]
        with self.lock:
            there = self.objects.get(self.path)
            wanted = self.headers.get("If-Match") if self.honours else None
            if (self.headers.get("If-None-Match") == "*" and there is not None) or (
                wanted is not None and there is not None and wanted != _etag(there)
            ):
                self._answer(412, code="PreconditionFailed")
            elif wanted is not None and there is None:
                self._answer(404, code="NoSuchKey")
            else:
                self.objects[self.path] = body
                self._answer(200, etag=_etag(body))

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self._answer(204)

    def log_message(self, *_: object) -> None:
        return


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@pytest.mark.parametrize("honours", [True, False])
def test_if_match_is_used_where_the_store_honours_it(honours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight writers at once against a store that compares; and one that ignores the condition is found out."""
    handler = type("Handler", (ConditionalS3,), {"objects": {}, "lock": threading.Lock(), "honours": honours})
    with serving(handler) as port:
        options = {"endpoint_url": f"http://127.0.0.1:{port}", "key": "k", "secret": "s", "skip_instance_cache": True}
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        store = Store("s3://bucket/set", options)
        assert move(store, pointer("2026-11-01")).moved
        assert move(store, pointer("2026-11-02")).atomic is honours
        if honours:
            dates = [f"2026-11-{day:02d}" for day in range(3, 11)]
            threads = [
                threading.Thread(target=move, args=(Store("s3://bucket/set", options), pointer(date)))
                for date in [*dates[4:], *dates[:4]]
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert read_pointer(store) == pointer(dates[-1])
        assert list(handler.objects) == ["/bucket/set/latest.json"]  # type: ignore[attr-defined]


class serving:  # noqa: N801 - reads as a statement
    """A server on loopback while the block runs; its port."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> int:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self._server.server_address[1]

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_only_a_sound_output_is_pointed_at(tmp_path: Path) -> None:
    store, _ = make_sound_output(tmp_path / "2026-11-26", "parquet", shards=2)
    place = dated_place(f"{tmp_path}/{{date}}")
    good = pointer_to(place, "2026-11-26", verify(store, quiet=True))
    assert (good.rows, good.committed, good.rejected, good.images) == (6, 5, 1, 5)
    (tmp_path / "2026-11-26/data/shard-000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(JobError, match=re.escape("is not sound; promptmill verify says what is wrong, latest.json")):
        pointer_to(place, "2026-11-26", verify(store, quiet=True))


@pytest.fixture
def nights(tmp_path: Path) -> tuple[Store, DatedPlace]:
    """Nights 01 to 06 of a template, of which 03 is unfinished, and things that are none of them."""
    place = dated_place(f"{tmp_path}/{{date}}")
    for day in range(1, 7):
        date = f"2026-11-0{day}"
        store, _ = make_sound_output(tmp_path / date, "files" if day == 2 else "parquet", shards=2)
        put_note(store, place, date, {"incremental": None})
    (tmp_path / "2026-11-03/_run/shards/000001.json").unlink()
    make_sound_output(tmp_path / "2026-10-01", "parquet", shards=1)  # by hand: no note
    (tmp_path / "2026-10-02").mkdir()
    (tmp_path / "2026-10-02/holiday.jpg").write_bytes(b"\xff")
    store, _ = make_sound_output(tmp_path / "v2-2026-10-03", "parquet", shards=1)
    put_note(store, dated_place(f"{tmp_path}/v2-{{date}}"), "2026-10-03", {})
    return Store(str(tmp_path)), place


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


STRANGERS = ["2026-10-01", "2026-10-02", "v2-2026-10-03"]


def test_retention_deletes_what_is_older_than_the_kept_and_nothing_else(
    tmp_path: Path, nights: tuple[Store, DatedPlace]
) -> None:
    store, place = nights
    told: list[str] = []
    # 05, 04 and 02 are the newest complete ones that are no newer than latest.json says; 03 was never finished.
    gone = delete_older(store, place, pointer("2026-11-05"), 3, lambda output: False, told.append)
    assert gone == ["2026-11-01"]
    gone = delete_older(store, place, pointer("2026-11-05"), 2, lambda output: False, told.append)
    assert gone == ["2026-11-02", "2026-11-03"]
    assert names(tmp_path) == [*STRANGERS[:2], "2026-11-04", "2026-11-05", "2026-11-06", STRANGERS[2]]
    assert told == []
    # The pointer was moved back to an old date: nothing from there on goes, whatever the number.
    assert delete_older(store, place, pointer("2026-11-04"), 1, lambda output: False) == []


def test_retention_leaves_what_is_needed_strange_or_at_work(tmp_path: Path, nights: tuple[Store, DatedPlace]) -> None:
    store, place = nights
    (tmp_path / "2026-11-02/notes.txt").write_text("mine")
    (tmp_path / "2026-11-03/_run/drivers").mkdir(exist_ok=True)
    (tmp_path / "2026-11-03/_run/drivers/x.json").write_text("{}")
    aside = tmp_path.parent / f"{tmp_path.name}-aside"
    (tmp_path / "2026-11-04").rename(aside)
    (tmp_path / "2026-11-04").symlink_to(aside)
    told: list[str] = []
    gone = delete_older(
        store, place, pointer("2026-11-06"), 1, lambda output: output.root.endswith("2026-11-01"), told.append
    )
    assert gone == ["2026-11-05"]
    assert "notes.txt' in it is none of promptmill's" in told[0]
    assert "a run is at work on it" in told[1]
    assert told[2].startswith("1 output(s) older than the newest 1 (nightly.keep) stay")
    assert (aside / "_run/run.json").is_file()


def test_a_deletion_that_is_cut_off_is_recognised_and_ended(
    tmp_path: Path, nights: tuple[Store, DatedPlace], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, place = nights
    victim, whole = tmp_path / "2026-11-01", tmp_path.parent / f"{tmp_path.name}-whole"
    shutil.copytree(victim, whole)
    objects = sum(path.is_file() for path in whole.rglob("*"))
    remove = Store.remove
    for cut in range(1, objects):
        removed: list[str] = []

        def limited(self: Store, name: str, removed: list[str] = removed, cut: int = cut) -> None:
            if (Path(self.root) / name).is_file():
                if len(removed) == cut:
                    raise JobError("the store went away")
                removed.append(name)
            remove(self, name)

        with monkeypatch.context() as patch:
            patch.setattr(Store, "remove", limited)
            with pytest.raises(JobError):
                delete_output(Store(str(victim)))
        assert removed[0].startswith("_run/shards/"), "from the first step on its shards do not exist"
        assert (victim / RUN).is_file() or cut == objects - 1
        assert delete_older(store, place, pointer("2026-11-06"), 5, lambda output: False) == ["2026-11-01"]
        assert not victim.exists()
        shutil.copytree(whole, victim)


def night() -> Night:
    return Night("2026-11-26", "s3://bucket/set/2026-11-26", error="cannot write 's3://bucket': no such bucket")


def test_the_summary_goes_into_a_file_with_the_date_in_its_name(tmp_path: Path) -> None:
    deliver(f"{tmp_path}/told/{{date}}.json", night(), Store(str(tmp_path / "set")))
    told = json.loads((tmp_path / "told/2026-11-26.json").read_text())
    assert (told["format"], told["state"], told["error"]) == (1, "failed", night().error)
    assert told["text"].startswith("promptmill 2026-11-26: failed: cannot write")
    assert [path.name for path in (tmp_path / "told").iterdir()] == ["2026-11-26.json"]
    with pytest.raises(UserError, match="names a directory"):
        check_target(f"{tmp_path}/")


@pytest.mark.parametrize(
    ("end_by", "kind", "state"),
    [
        (signal.SIGTERM, Interrupted, "interrupted"),
        (signal.SIGINT, Interrupted, "interrupted"),
        (None, JobError, "failed"),
        (None, ZeroDivisionError, "failed"),
    ],
)
def test_a_night_that_ends_early_is_told_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end_by: signal.Signals | None,
    kind: type[BaseException],
    state: str,
) -> None:
    def end(*args: object, **kwargs: object) -> None:
        if end_by is not None:
            os.kill(os.getpid(), end_by)
            threading.Event().wait(5)
        raise kind("s3://user:canary-password@host/x is gone")

    monkeypatch.setattr("pipeline.nightly.synthesize", end)
    told = tmp_path / "told.json"
    config = NightlyConfig.model_validate(
        {"output": {"uri": f"{tmp_path}/set/{{date}}"}, "nightly": {"summary": str(told)}}
    )
    with pytest.raises(kind) as caught:
        nightly(config, "2026-11-26")
    assert getattr(caught.value, "exit_code", None) == (128 + end_by if end_by else getattr(kind, "exit_code", None))
    document = json.loads(told.read_text())
    assert document["state"] == state
    assert ("is gone" in document["error"]) == (kind is not Interrupted)
    assert "canary" not in told.read_text()
    assert read_pointer(Store(f"{tmp_path}/set")) is None
    # The first error is what the run ends with, also where nobody hears of it.
    told.unlink()
    told.mkdir()
    with pytest.raises(kind):
        nightly(config, "2026-11-26")


def test_a_webhook_is_asked_again_and_its_url_is_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, seen = [503, 429, 200], []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, self.headers["Content-Type"], json.loads(body)["state"]))
            self.send_response(answers[min(len(seen), len(answers)) - 1])
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    store = Store("memory://set")
    with serving(Hook) as port:
        url = f"http://127.0.0.1:{port}/services/T0/canary-secret?token=canary-token"
        deliver(url, night(), store, sleep=lambda seconds: None)
        assert seen == [("/services/T0/canary-secret?token=canary-token", "application/json", "failed")] * 3
        for status, sentence in ((404, "answered 404; check its URL"), (302, "answered 302"), (500, "answered 500, 5")):
            answers[:] = [status]
            seen.clear()
            with pytest.raises(JobError, match=sentence) as caught:
                deliver(url, night(), store, sleep=lambda seconds: None)
            assert "canary" not in str(caught.value)
            assert "http://127.0.0.1/***" in str(caught.value)
            assert len(seen) == (5 if status == 500 else 1)
    with pytest.raises(JobError, match="cannot be reached: ConnectionRefusedError") as caught:
        deliver(url, night(), store, sleep=lambda seconds: None)
    assert "canary" not in str(caught.value)
    with pytest.raises(UserError, match="must be https://") as refused:
        check_target("http://hooks.example.com/canary")
    assert "canary" not in str(refused.value)
    assert "canary" not in repr(Nightly(summary="https://hooks.example.com/canary"))
