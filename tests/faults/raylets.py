"""A Ray cluster of three raylets on loopback, whose processes can be killed one by one, and started again.

Every process of it carries a mark of its own in its environment, and only marked processes are ever found, so that the
clusters of others on this machine are safe. Its ports are free ones and its files lie in a directory of its own.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_RAY = str(Path(sys.executable).parent / "ray")
_MARK = "PROMPTMILL_CHAOS"
_PATIENCE = 300.0


@dataclass
class Raylets:
    """The cluster; `address` changes when its head was started again. Use as a context manager.

    Args:
        cpus: logical CPUs of one node.
        head_cpus: those of the head; None = as the others.
        nodes: how many there are, the head among them.
        dashboard: whether the head serves the dashboard, and takes jobs over HTTP.
        labels: those of the nodes beside the head, one text each as ``ray start --labels`` takes it.
        extra: variables that all processes have besides.
        missed_after: seconds without a heartbeat after which a raylet is taken for dead.
        lost_after: seconds after which Ray's processes give up a GCS that does not answer (Ray's default is 60).
    """

    cpus: int = 2
    head_cpus: int | None = None
    nodes: int = 3
    dashboard: bool = False
    labels: tuple[str, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)
    missed_after: int = 10
    lost_after: int = 10
    address: str = ""
    http: str = ""
    starts: int = 0
    _mark: str = field(default_factory=lambda: secrets.token_hex(32))
    _nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _scratch: str = ""

    def __enter__(self) -> Raylets:
        # Short: Ray's sockets lie below it, and their paths may have 107 characters.
        self._scratch = tempfile.mkdtemp(prefix="pm-", dir="/tmp")
        try:
            self.mend()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end_all()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """What a process of this cluster, or a driver that joins it, runs with."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        fixed = {
            # The entrypoint of a job is `python ...`.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            _MARK: self._mark,
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._mark,
            "RAY_gcs_rpc_server_reconnect_timeout_s": str(self.lost_after),
            # A dead raylet is missed by its heartbeats, one a second.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": str(self.missed_after),
            "RAY_prestart_worker_first_driver": "0",
            # A node with few CPUs ends idle workers after a second: each shard would be read by a new one. No longer
            # than this: a new actor may have to wait until they are gone.
            "RAY_idle_worker_killing_time_threshold_ms": "5000",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        return plain | self.extra | fixed

    def mend(self) -> bool:
        """Starts what is dead: a node, or everything where the head is; returns whether it was everything."""
        head = bool(self._nodes) and self._whole(self._nodes[0]) and bool(self.gcs())
        if not head:
            self._end_all()
            self._nodes = [self._start_head()]
        deadline = time.monotonic() + _PATIENCE
        while len(self.raylets()) < self.nodes:
            if time.monotonic() > deadline:
                raise RuntimeError("a raylet does not start")
            for number, node in enumerate(self._nodes):
                if number and node.poll() is not None:
                    _end_tree(node)
                    self._nodes[number] = self._start_node(number)
            while len(self._nodes) < self.nodes:
                self._nodes.append(self._start_node(len(self._nodes)))
            time.sleep(0.5)
        return not head

    def add(self, cpus: int | None = None) -> int:
        """Starts one more node, and returns its number; the head is 0. Does not wait for it."""
        self._nodes.append(self._start_node(len(self._nodes), cpus))
        return len(self._nodes) - 1

    def kill_node(self, number: int) -> None:
        """SIGKILL to a node: its raylet and all that it started."""
        _end_tree(self._nodes[number])

    def take_away(self, number: int) -> None:
        """SIGTERM to a node, as a spot machine gets it: Ray drains it first."""
        self._nodes[number].terminate()

    def gone(self, number: int) -> bool:
        """Whether a node has ended."""
        return self._nodes[number].poll() is not None

    def workers_of(self, number: int, stage: str) -> list[int]:
        """Those of `workers` that run on one node."""
        with contextlib.suppress(psutil.Error):
            below = {child.pid for child in psutil.Process(self._nodes[number].pid).children(recursive=True)}
            return [pid for pid in self.workers(stage) if pid in below]
        return []

    def said(self, text: str) -> bool:
        """Whether a line of any worker's log has the text in it."""
        logs = Path(self._scratch).glob("**/session_*/logs/worker-*.err")
        return any(text in path.read_text(errors="replace") for path in logs)

    def gcs(self) -> list[int]:
        """The GCS server."""
        return [p.pid for p in self.processes() if p.info["name"] == "gcs_server"]

    def raylets(self) -> list[int]:
        """All raylets, the head's first."""
        heads = {child.pid for node in self._nodes[:1] for child in _children(node.pid)}
        found = [p.pid for p in self.processes() if p.info["name"] == "raylet"]
        return sorted(found, key=lambda pid: pid not in heads)

    def workers(self, stage: str) -> list[int]:
        """Workers whose title names a stage of the pipeline, e.g. ``GenerateStage``."""
        lines = [(p.pid, " ".join(p.info["cmdline"] or [])) for p in self.processes()]
        return [pid for pid, line in lines if line.startswith("ray::") and stage in line]

    def processes(self) -> list[psutil.Process]:
        """All living processes of this cluster and of its drivers."""
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _start_head(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        port = _free_port()
        self.address = f"127.0.0.1:{port}"
        web = ["--include-dashboard=false"]
        if self.dashboard:
            number = _free_port()
            self.http = f"http://127.0.0.1:{number}"
            web = ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={number}"]
        cpus = self.cpus if self.head_cpus is None else self.head_cpus
        head = self._start("--head", f"--num-cpus={cpus}", f"--port={port}", f"--temp-dir={self._scratch}", *web)
        self._wait(lambda: _listens(port) and bool(self.raylets()), "the head does not start", head)
        return head

    def _start_node(self, number: int, cpus: int | None = None) -> subprocess.Popen[bytes]:
        labels = self.labels[number - 1] if number <= len(self.labels) else ""
        # As on a machine of its own: a node that is new unpacks a job's directory afresh, over those of the others.
        place = f"--temp-dir={self._scratch}/{number}-{secrets.token_hex(2)}"
        asked = [f"--num-cpus={cpus or self.cpus}", f"--labels={labels}", place]
        return self._start(f"--address={self.address}", *asked)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [_RAY, "start", "--block", "--node-ip-address=127.0.0.1",
             "--object-store-memory=100000000", "--min-worker-port=0", "--max-worker-port=0",
             f"--dashboard-agent-listen-port={_free_port()}", "--disable-usage-stats", *arguments],
            env={k: v for k, v in self.environment().items() if k != "RAY_ADDRESS"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def _whole(self, node: subprocess.Popen[bytes]) -> bool:
        return node.poll() is None and any(c.name() == "raylet" for c in _children(node.pid))

    def _wait(self, holds, complaint: str, process: subprocess.Popen[bytes] | None = None) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not holds():
            if process is not None and process.poll() is not None:
                raise RuntimeError(f"{complaint}: it ended with status {process.returncode}")
            if time.monotonic() > deadline:
                raise RuntimeError(complaint)
            time.sleep(0.1)

    def _end_all(self) -> None:
        for _ in range(20):
            left = self.processes()
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            for node in self._nodes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    node.wait(timeout=5)
            if not left:
                break
            time.sleep(0.1)
        self._nodes = []


def kill(pids: list[int], number: signal.Signals = signal.SIGKILL) -> int:
    """Sends a signal; returns how many processes were there to take it."""
    taken = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            taken += 1
    return taken


def pick(pids: list[int], chance: random.Random) -> list[int]:
    """One of some processes; none of none."""
    return [chance.choice(sorted(pids))] if pids else []


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [child for child in psutil.Process(pid).children() if child.status() != psutil.STATUS_ZOMBIE]
    return []


def _end_tree(node: subprocess.Popen[bytes]) -> None:
    below = []
    with contextlib.suppress(psutil.Error):
        below = psutil.Process(node.pid).children(recursive=True)
    for process in below:
        with contextlib.suppress(psutil.Error):
            process.kill()
    node.kill()
    node.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
