"""Joining a Ray cluster, or starting a local one and stopping it again."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping

import ray
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from actors.errors import JobError, UserError
from pipeline.config import SynthesizeConfig
from pipeline.config_running import Actors, Cluster
from pipeline.last_words import LastWords, last_words
from pipeline.storage_errors import public_uri

_MIB = 1 << 20
_PATIENCE = 20.0
"""Seconds in which somebody must listen at a cluster's address."""
# A Ray that lives no longer than its run is given no notice by anybody: training needs no process that asks for it.
_NOTICE = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
_GPU_LABEL = "ray.io/accelerator-type"


@contextlib.contextmanager
def connected(address: str | None, config: Cluster, debug: bool = False) -> Iterator[str]:
    """Connects to the cluster at ``address`` or ``RAY_ADDRESS``; without either a local Ray lives while the block runs.

    Yields:
        One phrase on where the run goes.

    Raises:
        JobError: no cluster answers at the address.
        UserError: the address is that of a cluster's jobs.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    level = logging.INFO if debug else logging.ERROR
    logging.getLogger("ray").setLevel(level)
    logging.getLogger("ray.data").setLevel(level if debug else logging.CRITICAL)
    with (
        last_words() as words,
        contextlib.nullcontext() if debug else _native_stderr_to_file(),
        contextlib.nullcontext() if ray.is_initialized() or _is_elsewhere(address) else _default(_NOTICE, "0"),
    ):
        yield from _connect(address, config, level, debug, words)


def _connect(address: str | None, config: Cluster, level: int, debug: bool, words: LastWords) -> Iterator[str]:
    if ray.is_initialized():
        yield "the Ray that this process is connected to"
        return
    if address and address.startswith(("http://", "https://")):
        raise UserError(
            f"'{public_uri(address)}' takes jobs: send the run there by `promptmill submit`, or name "
            "the cluster's head as HOST:PORT"
        )
    try:
        if _is_elsewhere(address):
            _require_listener(str(address))
            ray.init(address=address, logging_level=level, log_to_driver=debug)
            where = f"Ray cluster at {address}"
        else:
            # Ray would tell its makers what it is used for; a run tells nobody what it was not asked to.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            # Images never pass through the object store, so a small one is enough whatever /dev/shm holds.
            ray.init(
                address="local",
                num_cpus=config.local_cpus,
                include_dashboard=False,
                object_store_memory=512 * _MIB,
                logging_level=level,
                log_to_driver=debug,
            )
            where = f"a local Ray with {ray.cluster_resources().get('CPU', 0):g} CPUs"
    except Exception as error:  # Ray says with a bare Exception that its own node did not come up in time
        raise JobError(f"no Ray cluster answers at '{address or 'local'}': {error}".split("\n")[0]) from error
    try:
        yield where
    except BaseException as error:
        if hasattr(error, "exit_code"):
            # Ray's core may end this process while it is left, and the reason would never be said.
            words.become(str(error))
        if not debug:
            _hush()
        raise
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raises `OSError` where nobody listens at HOST:PORT: Ray would ask for minutes, and say nothing meanwhile."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # "auto" and the like, which Ray looks up
    # Again and again, for the head may be just starting: a machine that boots starts it and the night's run together.
    asking = Retrying(
        retry=retry_if_exception_type(OSError), stop=stop_after_delay(_PATIENCE), wait=wait_fixed(1), reraise=True
    )
    asking(socket.create_connection, (host.strip("[]"), int(port)), timeout=10).close()


def _is_elsewhere(address: str | None) -> bool:
    return address not in {None, "", "local"}


@contextlib.contextmanager
def _default(name: str, value: str) -> Iterator[None]:
    """A variable of the environment for as long as the block runs, unless it is set already."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)


def _hush() -> None:
    """Keeps the last words of Ray Data's threads and objects off the terminal.

    A run that breaks off ends its connection under them; they die of "Ray has not been started", each with a traceback,
    at a moment that cannot be waited for. The process is about to end, with a sentence of its own.
    """
    threading.excepthook = lambda arguments: None
    sys.unraisablehook = lambda arguments: None


@contextlib.contextmanager
def _native_stderr_to_file() -> Iterator[None]:
    """Keeps what Ray's C++ core writes to file descriptor 2 off the terminal; Python's own stderr still reaches it.

    Its remarks (a line an actor, a stack at SIGTERM) are no errors of the run, and would tear the progress bar.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    before = sys.stderr
    with tempfile.TemporaryFile() as sink, os.fdopen(os.dup(terminal), "w", buffering=1) as stream:
        os.dup2(sink.fileno(), 2)
        sys.stderr = stream
        try:
            yield
        finally:
            sys.stderr = before
            os.dup2(terminal, 2)
            os.close(terminal)


def without_gpus(config: SynthesizeConfig) -> tuple[SynthesizeConfig, bool]:
    """The config with its GPU stages on CPUs where the cluster has no GPU, and whether anything changed."""
    stages = {"generate": config.generate.actors}
    if config.expand is not None:
        stages["expand"] = config.expand.actors
    if all(actors.gpus == 0 for actors in stages.values()) or not config.cluster.cpu_fallback:
        return config, False
    if ray.cluster_resources().get("GPU", 0) > 0:
        return config, False
    changed = config
    for name, actors in stages.items():
        labels = {label: value for label, value in actors.labels.items() if label != _GPU_LABEL}
        on_cpus: Actors = actors.model_copy(update={"gpus": 0.0, "accelerator_type": None, "labels": labels})
        section = getattr(changed, name).model_copy(update={"actors": on_cpus})
        changed = changed.model_copy(update={name: section})
    return changed, True


def cluster_gpus(address: str | None) -> dict[str, int]:
    """The GPUs of the cluster at ``address`` or ``RAY_ADDRESS``, counted by the name that Ray has for their kind.

    Raises:
        JobError: no cluster answers.
        UserError: it has no GPU, or a node does not say of which kind its are.
    """
    found: dict[str, int] = {}
    with connected(address, Cluster()):
        for node in ray.nodes():
            count = int(node["Resources"].get("GPU", 0)) if node["Alive"] else 0
            kinds = [name.partition(":")[2] for name in node["Resources"] if name.startswith("accelerator_type:")]
            if count and not kinds:
                raise UserError("a node of the cluster does not say what its GPUs are: name them, e.g. --gpu L4:8")
            if count:
                found[kinds[0]] = found.get(kinds[0], 0) + count
    if not found:
        raise UserError("the cluster has no GPU: the models that come with promptmill are made for CPUs")
    return found


def missing_resources(config: SynthesizeConfig) -> str | None:
    """Why the cluster as it stands cannot hold one actor of each stage at once; None where it can."""
    have = ray.cluster_resources()
    wanted: dict[str, float] = {}
    pools = [config.generate.actors] + ([config.expand.actors] if config.expand is not None else [])
    for actors in pools:
        for name, amount in {"CPU": actors.cpus, "GPU": actors.gpus, **actors.resources}.items():
            wanted[name] = wanted.get(name, 0.0) + amount * actors.min
    short = {name: amount for name, amount in wanted.items() if amount > have.get(name, 0.0)}
    told = [f"{amount:g} {name} wanted and {have.get(name, 0.0):g} there" for name, amount in short.items()]
    models = {actors.accelerator_type for actors in pools if actors.accelerator_type}
    told += [f"no {model} there" for model in sorted(models) if f"accelerator_type:{model}" not in have]
    nodes = [node.get("Labels", {}) for node in ray.nodes() if node["Alive"]]
    for actors in pools:
        if not any(_fits(actors.labels, labels) for labels in nodes):
            words = ", ".join(f"{name}={value}" for name, value in actors.labels.items())
            told.append(f"no node with {words}")
    return ", ".join(dict.fromkeys(told)) or None


def _fits(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node's labels are those that a selector wants, by Ray's four kinds of it."""
    for name, value in wanted.items():
        plain = value.removeprefix("!")
        among = plain[3:-1].split(",") if plain.startswith("in(") else [plain]
        if (labels.get(name) in among) == value.startswith("!"):
            return False
    return True
