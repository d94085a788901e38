"""Pictures that a table names: what may be read by which prefix, and what a server answers is not trusted either."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.image_uris import ImagePlaces
from pipeline.web_picture import RefusedError

PICTURE = b"a picture's bytes"


class Server(http.server.ThreadingHTTPServer):
    """Serves a picture, redirects, an error, and a body that is shorter than it says; remembers what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        targets = {
            "/set/inside": "/set/a.png", "/set/outside": "/private", "/set/loop": "/set/loop",
            "/set/elsewhere": "http://169.254.169.254/latest/meta-data/", "/set/file": "file:///etc/passwd",
        }  # fmt: skip
        if self.path in targets:
            self.send_response(302)
            self.send_header("Location", targets[self.path])
            self.end_headers()
            return
        status = 200 if self.path in ("/set/a.png", "/set/short", "/private") else 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(PICTURE) + 5 * (self.path == "/set/short")))
        self.end_headers()
        self.wfile.write(PICTURE)

    def log_message(self, form: str, *values: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def places(*prefixes: str, table: str = "/data/t.parquet", beside: bool = False) -> ImagePlaces:
    return ImagePlaces(table, prefixes, "data.image_uris", beside=beside)


def test_a_prefix_that_names_the_server_lets_its_pictures_be_read(server: Server) -> None:
    allowed = places(f"{server.root}/set/")
    assert allowed.read(f"{server.root}/set/a.png", "/data") == PICTURE
    assert allowed.read(f"{server.root}/set/inside", "/data") == PICTURE


@pytest.mark.parametrize("name", ["outside", "elsewhere", "file", "loop"])
def test_a_redirect_leads_nowhere_else(server: Server, name: str) -> None:
    with pytest.raises(RefusedError, match="redirects"):
        places(f"{server.root}/set/").read(f"{server.root}/set/{name}", "/data")
    assert "/private" not in server.asked


@pytest.mark.parametrize("name", ["/set/short", "/set/nothing"])
def test_what_is_no_whole_answer_is_an_error(server: Server, name: str) -> None:
    with pytest.raises(OSError, match=r"cut|404|HTTP"):
        places(f"{server.root}/set/").read(server.root + name, "/data")


@pytest.mark.parametrize("host", ["2130706433", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_other_spellings_of_this_machine_are_refused(server: Server, host: str) -> None:
    """A prefix lets the host be asked; the address that it means is this machine all the same."""
    port = server.server_address[1]
    with pytest.raises((RefusedError, OSError)):
        places(f"http://{host}:{port}/").read(f"http://{host}:{port}/set/a.png", "/data")
    assert server.asked == []


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]"],
)
def test_link_local_metadata_and_private_hosts_are_refused_though_a_prefix_names_them(host: str) -> None:
    """The refusal is of the address, said before anything is asked."""
    with pytest.raises(RefusedError, match="address"):
        places(f"http://{host}/").read(f"http://{host}/latest/meta-data/", "/data")


def test_a_name_that_resolves_to_a_link_local_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **named: answers)
    with pytest.raises(RefusedError, match="address"):
        places("http://pictures.example/").read("http://pictures.example/a.png", "/data")


@pytest.mark.parametrize(
    ("prefix", "name", "allowed"),
    [
        ("s3://bucket/pre/", "s3://bucket/pre/a.png", True),
        ("s3://bucket/pre", "s3://bucket/pre/a.png", True),
        ("s3://bucket/pre", "s3://bucket/prefix-other/a.png", False),
        ("s3://bucket/pre/", "s3://bucket/pre/../x.png", False),
        ("s3://bucket/", "s3://Bucket/a.png", False),
        ("s3://bucket/", "gs://bucket/a.png", False),
        ("https://host/set/", "https://host/set/a.png", True),
        ("https://host/set/", "https://HOST/set/a.png", True),
        ("https://host/set/", "http://host/set/a.png", False),
        ("https://host/set/", "https://host:444/set/a.png", False),
        ("https://host/set/", "https://host@evil/set/a.png", False),
        ("https://host/set/", "https://host/set/%2e%2e/x.png", False),
        ("https://host/set/", "https://host.evil/set/a.png", False),
        ("/data/pictures", "/data/pictures/a.png", True),
        ("/data/pictures", "file:///data/pictures/a.png", True),
        ("/data/pictures", "/data/pictures2/a.png", False),
        ("/data/pictures", "/data/pictures/../secret", False),
    ],
)
def test_a_prefix_holds_by_whole_segments(prefix: str, name: str, allowed: bool) -> None:
    assert places(prefix).allows(name) is allowed


@pytest.mark.parametrize(
    "name",
    [
        "simplecache::s3://bucket/pre/a.png",
        "zip://x::https://host/a.zip",
        "https://host/a\n.png",
        "a\\b.png",
        "/dev/zero",
    ],
)
def test_what_is_never_read(name: str) -> None:
    with pytest.raises(RefusedError):
        places("s3://bucket/", "https://host/", "/dev/").read(name, "/data")


def test_links_out_of_a_tables_directory_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "set", tmp_path / "outside.png"
    inside.mkdir()
    outside.write_bytes(PICTURE)
    (inside / "own.png").write_bytes(PICTURE)
    (inside / "link.png").symlink_to(outside)
    beside = places(table=str(inside / "metadata.jsonl"), beside=True)
    assert beside.read("own.png", str(inside)) == PICTURE
    for name in ("link.png", "../outside.png", str(outside)):
        with pytest.raises(RefusedError, match=r"not under a prefix of data\.image_uris"):
            beside.read(name, str(inside))
    named = places(str(tmp_path), table=str(inside / "metadata.jsonl"), beside=True)
    assert named.read("link.png", str(inside)) == PICTURE
