"""The script that the nightly CronJob runs, against an API server on loopback: TLS, token, path, and its answers."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.infra.kuberay_schema import SCHEMAS
from tests.infra.rendered import KUBERAY

NIGHTLY = KUBERAY / "overlays/nightly"


class ApiServer(http.server.ThreadingHTTPServer):
    """Keeps the RayJobs that are posted, by name; answers 409 to a name that it has, and 403 to another token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.paths: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: ApiServer

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.paths.append(self.path)
        if self.headers["Authorization"] != "Bearer a-token":
            return self.answer(403, {"message": 'rayjobs.ray.io is forbidden: User "x" cannot create'})
        if job["metadata"]["name"] in self.server.jobs:
            return self.answer(409, {"message": "already exists"})
        self.server.jobs[job["metadata"]["name"]] = job
        return self.answer(201, job)

    def answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service account's directory: its token, its namespace, and the certificate of the API server."""
    here = tmp_path_factory.mktemp("account")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kube-apiserver")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (here / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (here / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (here / "namespace").write_text("promptmill")
    (here / "token").write_text("a-token\n")
    return here


@pytest.fixture
def server(account: Path) -> Iterator[ApiServer]:
    server = ApiServer()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(account / "ca.crt", account / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def run(account: Path, port: int, *day: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(NIGHTLY / "create_rayjob.py"), str(NIGHTLY / "rayjob.yaml"), *day],
        env={**os.environ, "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port),
             "PROMPTMILL_SERVICE_ACCOUNT": str(account)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_a_day_has_one_rayjob_however_often_it_is_created(account: Path, server: ApiServer) -> None:
    port = server.server_address[1]
    first, again, next_day = (run(account, port, day) for day in ("2026-11-26", "2026-11-26", "2026-11-27"))
    assert (first.returncode, first.stdout) == (0, "RayJob promptmill/promptmill-20261126 created\n"), first.stderr
    assert (again.returncode, again.stdout) == (
        0,
        "RayJob promptmill/promptmill-20261126 is there already: left alone\n",
    )
    assert next_day.returncode == 0
    assert set(server.paths) == {"/apis/ray.io/v1/namespaces/promptmill/rayjobs"}
    assert sorted(server.jobs) == ["promptmill-20261126", "promptmill-20261127"]
    for name, job in server.jobs.items():
        jsonschema.validate(job, SCHEMAS["RayJob"])
        assert len(name) <= 47, "KubeRay's limit"
        assert "@DATE@" not in json.dumps(job)
    assert server.jobs["promptmill-20261126"]["spec"]["entrypoint"].endswith("--date 2026-11-26")


def test_without_a_day_it_is_todays_in_utc(account: Path, server: ApiServer) -> None:
    before = datetime.datetime.now(datetime.UTC)
    assert run(account, server.server_address[1]).returncode == 0
    (name,) = server.jobs
    assert name in {f"promptmill-{moment:%Y%m%d}" for moment in (before, datetime.datetime.now(datetime.UTC))}


def test_a_refusal_and_a_server_that_is_away_are_one_sentence_and_status_1(account: Path, server: ApiServer) -> None:
    (account / "token").write_text("another")
    refused = run(account, server.server_address[1], "2026-11-26")
    (account / "token").write_text("a-token\n")
    assert refused.returncode == 1
    assert "refused RayJob promptmill/promptmill-20261126 (403): rayjobs.ray.io is forbidden" in refused.stderr
    away = run(account, 1, "2026-11-26")
    assert away.returncode == 1
    assert away.stderr.count("\n") == 1
    assert "Traceback" not in away.stderr
