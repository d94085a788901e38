"""A real S3 server on this machine: OpenStack Swift with `s3api`, for the tests and for a person.

    python infra/object-store/swift_s3.py --port 8333 --bucket pictures

One child process runs Swift's account, container, object and proxy servers on 127.0.0.1, with rings of one replica and
no memcached. It ends when its standard input closes, so it never outlives the program that started it, not even after
SIGKILL. Not for data that matters: one copy, no replication, no repair.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

REGION = "us-east-1"
HOST = "127.0.0.1"
START_TIMEOUT = 60.0
SERVERS = ("account", "container", "object", "proxy")

# Swift's own time-outs (0.5 s to connect, 1 s for a listing to learn of a put) would turn a busy machine's slowness
# into errors and stale listings; here the servers share one process, and only patience is of use.
DEFAULTS = """\
[DEFAULT]
bind_ip = {host}
bind_port = {port}
swift_dir = {home}
devices = {home}/devices
mount_check = false
fallocate_reserve = 0
disable_fallocate = true
workers = 0
conn_timeout = 30
node_timeout = 60
container_update_timeout = 60
log_level = {log_level}
"""
STORAGE = """
[pipeline:main]
pipeline = {server}-server
[app:{server}-server]
use = egg:swift#{server}
"""
PROXY = """
[pipeline:main]
pipeline = catch_errors proxy-logging listing_formats s3api tempauth copy slo {encryption}proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
recoverable_node_timeout = 60
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = {region}
[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret} .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:keymaster]
use = egg:swift#keymaster
encryption_root_secret = {secret_root}
[filter:encryption]
use = egg:swift#encryption
"""


class SwiftS3:
    """A running S3 server: a context manager around one child process.

    `directory` keeps the objects, the secret key and the log from one start to the next; without it they go with the
    server. `port` 0 takes a free one. The access key is `account:user`, as Swift's `tempauth` wants it, no underscores.
    `encryption` has Swift encrypt what it stores; only then does it take SSE-S3.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int = 0,
        access_key: str = "promptmill:tester",
        secret_key: str | None = None,
        encryption: bool = False,
    ) -> None:
        self.access_key = access_key
        self.directory = (directory or _scratch_directory()).resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._is_scratch = directory is None
        if not _keeps_xattrs(self.directory):
            raise RuntimeError(f"{self.directory}: no extended attributes here, where Swift keeps metadata")
        self.secret_key = secret_key or _kept_secret(self.directory)
        self._port, self._encryption = port, encryption
        self._process: subprocess.Popen[str] | None = None
        self.endpoint = ""

    @property
    def log(self) -> Path:
        """What the servers say: one line a request, and their errors."""
        return self.directory / "server.log"

    def start(self) -> Self:
        """Start the servers; return when they answer."""
        settings = {
            "home": str(self.directory),
            "scratch": self._is_scratch,
            "port": self._port,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "encryption": self._encryption,
        }
        with self.log.open("a") as log:
            self._process = process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the parent, which then ends this one
            )
        assert process.stdin is not None
        assert process.stdout is not None
        answer = ""
        try:
            with contextlib.suppress(BrokenPipeError):
                # Not in argv, which every user of the machine can read.
                process.stdin.write(json.dumps(settings) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()  # empty when the child ended, at the latest after START_TIMEOUT
            if not answer.startswith("ready "):
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
                raise RuntimeError(f"the S3 server did not start:\n{tail}")
        except BaseException:
            self.stop()
            raise
        self.endpoint = f"http://{HOST}:{int(answer.split()[1])}"
        return self

    def stop(self) -> None:
        """End the servers and, unless a directory was given, remove what they stored."""
        if self._process is not None:
            self._process.kill()  # the servers have no state but what each put already synced
            self._process.communicate()
            self._process = None
        if self._is_scratch:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the servers' process is alive."""
        return self._process is not None and self._process.poll() is None

    def environ(self) -> dict[str, str]:
        """The variables with which s3fs, boto and pyarrow use this server, with no option anywhere else."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ENDPOINT_URL_S3": self.endpoint,  # the one that wins where both are set
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,  # the one that botocore reads
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A botocore S3 client with this server's keys, whatever the environment says."""
        from botocore.session import get_session

        return get_session().create_client(
            "s3",
            REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )

    def create_bucket(self, name: str) -> None:
        """Create a bucket; one that is there already is left as it is."""
        client = self.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=name)


class AtomicCreate:
    """Makes `If-None-Match: *` what AWS S3 promises: of many writers of one name, one succeeds.

    Swift alone looks whether the object is there when a put begins, and not again when it ends: writers that overlap
    all hear 200, and the last one's bytes stay. Here conditional requests on one name take turns, each with its body
    already at hand.
    """

    def __init__(self, app: Any, locks: list[Any]) -> None:
        self.app = app
        self.locks = locks

    def __call__(self, env: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one WSGI request."""
        if env.get("HTTP_IF_NONE_MATCH") == "*" and env["REQUEST_METHOD"] in {"PUT", "POST"}:
            return self._take_turns(env, start_response)
        answer: Iterable[bytes] = self.app(env, start_response)
        return answer

    def _take_turns(self, env: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        with tempfile.SpooledTemporaryFile(max_size=2**23) as body:
            shutil.copyfileobj(env["wsgi.input"], body)  # before the lock: a writer who stops halfway stops nobody else
            body.seek(0)
            with self.locks[hash(env["PATH_INFO"]) % len(self.locks)]:
                answer = self.app({**env, "wsgi.input": body}, start_response)
                try:
                    yield from answer  # the end of a multipart upload does its work while it is read
                finally:
                    getattr(answer, "close", lambda: None)()


def _keeps_xattrs(directory: Path) -> bool:
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        try:
            os.setxattr(file.fileno(), "user.swift.metadata", b"x" * 1024)
        except OSError:
            return False
    return True


def _scratch_directory() -> Path:
    """A new directory where Swift can keep metadata: tmpfs has no user attributes before Linux 6.6."""
    for base in (tempfile.gettempdir(), "/var/tmp", Path.cwd(), "/dev/shm"):
        with contextlib.suppress(OSError):
            directory = Path(tempfile.mkdtemp(prefix="promptmill-s3-", dir=base))
            if _keeps_xattrs(directory):
                return directory
            directory.rmdir()
    raise RuntimeError("no temporary directory here has extended attributes: set TMPDIR to one on ext4, xfs or overlay")


def _kept_secret(directory: Path) -> str:
    path = directory / "secret-key"
    with (
        contextlib.suppress(FileExistsError),
        os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as f,
    ):
        f.write(secrets.token_hex(20))
    return path.read_text()


def _write_configuration(home: Path, ports: dict[str, int], access_key: str, secret_key: str, encryption: bool) -> None:
    from swift.common.ring import RingBuilder  # type: ignore[import-untyped]

    (home / "devices" / "d1").mkdir(parents=True, exist_ok=True)
    (home / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = promptmill\n")
    for server, port in ports.items():
        is_proxy = server == "proxy"
        config = home / f"{server}-server.conf"
        config.touch(0o600)  # the proxy's holds the secret key
        config.write_text(
            (DEFAULTS + (PROXY if is_proxy else STORAGE)).format(
                host=HOST,
                port=port,
                home=home,
                server=server,
                region=REGION,
                user=access_key.replace(":", "_"),
                secret=secret_key,
                encryption="keymaster encryption " if encryption else "",
                # Kept objects must stay readable: the same root from one start to the next.
                secret_root=base64.b64encode(hashlib.sha256(secret_key.encode()).digest()).decode(),
                log_level="INFO" if is_proxy else "WARNING",
            )
        )
        if not is_proxy:
            ring = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
            ring.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, "ip": HOST, "port": port, "device": "d1"})
            ring.rebalance(seed="0")
            ring.get_ring().save(str(home / f"{server}.ring.gz"))


def serve(home: Path, port: int, access_key: str, secret_key: str, encryption: bool) -> None:
    """Run the four servers in this process until standard input closes."""
    from swift.common import http_protocol, storage_policy, utils, wsgi  # type: ignore[import-untyped]

    utils.monkey_patch()
    import eventlet  # type: ignore[import-untyped]
    import eventlet.semaphore  # type: ignore[import-untyped]
    import eventlet.wsgi  # type: ignore[import-untyped]

    # Swift logs to the machine's syslog, whatever one asks for; ours go to standard error, which is server.log.
    utils.logs.ThreadSafeSysLogHandler = lambda **_: utils.logs.logging.StreamHandler(sys.stderr)

    # Sockets before rings, rings before servers: nobody can take a port between choosing it and using it.
    sockets = {
        server: wsgi.get_socket(
            {"bind_ip": HOST, "bind_port": port if server == "proxy" else 0, "bind_timeout": 2, "backlog": 128}
        )
        for server in SERVERS
    }
    ports = {server: sock.getsockname()[1] for server, sock in sockets.items()}
    _write_configuration(home, ports, access_key, secret_key, encryption)
    utils.set_swift_dir(str(home))  # instead of /etc/swift
    storage_policy.reload_storage_policies()
    for server, sock in sockets.items():
        config = str(home / f"{server}-server.conf")
        wsgi._initrp(config, f"{server}-server")
        app = wsgi.loadapp(config, global_conf={"log_name": f"{server}-server"})
        if server == "proxy":
            app = AtomicCreate(app, [eventlet.semaphore.Semaphore() for _ in range(256)])
        eventlet.spawn(  # as Swift's own in-process tests do; `wsgi.run_server` would start another event loop for each
            eventlet.wsgi.server,
            sock,
            app,
            utils.NullLogger(),
            protocol=http_protocol.SwiftHttpProtocol,
            capitalize_response_headers=False,
            url_length_limit=65536,
        )
    signal.alarm(0)
    print(f"ready {ports['proxy']}", flush=True)
    while True:
        eventlet.hubs.trampoline(0, read=True)
        if not os.read(0, 4096):
            return


def _wait_for_signal(server: SwiftS3) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.suppress(KeyboardInterrupt):
        while server.running:
            time.sleep(0.5)
        sys.exit(f"the S3 server ended by itself; see {server.log}")


def main() -> None:
    """Run a server for a person, until Ctrl-C."""
    if sys.argv[1:] == ["--serve"]:  # the child
        signal.alarm(int(START_TIMEOUT))
        settings = json.loads(sys.stdin.readline())
        home, scratch = Path(settings.pop("home")), settings.pop("scratch")
        serve(home, **settings)
        if scratch:  # the parent was killed, or it would have removed this itself
            shutil.rmtree(home, ignore_errors=True)
        return
    parser = argparse.ArgumentParser(description="A real S3 server on this machine: OpenStack Swift.")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="keep the objects here (default: gone at the end)")
    parser.add_argument(
        "--port", type=int, default=8333, help="TCP port on 127.0.0.1, 0 for a free one (default: 8333)"
    )
    parser.add_argument("--bucket", metavar="NAME", default="promptmill", help="bucket to create (default: promptmill)")
    options = parser.parse_args()
    with SwiftS3(options.dir, port=options.port) as server:
        server.create_bucket(options.bucket)
        exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in server.environ().items())
        print(
            f"endpoint    {server.endpoint}",
            f"access key  {server.access_key}",
            f"secret key  {server.secret_key}",
            f"bucket      s3://{options.bucket}",
            f"log         {server.log}",
            f"\nIn the other terminal:\n\n{exports}\n\nCtrl-C ends it.",
            sep="\n",
            flush=True,
        )
        _wait_for_signal(server)


if __name__ == "__main__":
    main()
