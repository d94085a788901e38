"""Fixtures that many tests share. What is costly starts when the first test asks for it."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from tests.faults.engines import Engines

if TYPE_CHECKING:
    from typing import Any

# Side by side (`make test`), each process computes on its share of the cores: OpenMP's threads wait for each other at
# every small operation, and where they want more cores than there are, most of the time goes into that.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

# A job writes JSON in a pod. Tests read its plain lines, wherever they run.
os.environ.pop("KUBERNETES_SERVICE_HOST", None)

REPOSITORY = Path(__file__).resolve().parents[1]

# The longest files first: begun last, one of them would keep one worker busy while the others are done.
LONGEST = (
    "jobs/test_train_gan.py", "cluster/test_three_raylets.py", "jobs/test_train_encoder.py",
    "jobs/test_kill.py", "jobs/test_evaluate.py", "jobs/test_refine.py", "faults/test_whole_runs.py", "jobs/test_s3.py",
    "faults/test_engines.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files; the tests of a file stay as they are."""
    places = {REPOSITORY / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def _program(path: str) -> ModuleType:
    """A program of this repository that lies outside any package, imported."""
    name = Path(path).stem
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, REPOSITORY / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def _forget_s3_clients() -> None:
    """Have s3fs make new clients: it caches them by arguments, and so keeps the keys of an environment that is gone."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Any]:
    """A real S3 server (`SwiftS3`), one for the whole session."""
    with _program("infra/object-store/swift_s3.py").SwiftS3() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a new, empty bucket; this process and its children reach it with no option anywhere."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    for name, value in s3_server.environ().items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{secrets.token_hex(4)}"
    s3_server.create_bucket(bucket)
    _forget_s3_clients()
    yield f"s3://{bucket}"
    _forget_s3_clients()


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """Has the models in the workers of `local_ray` fail on demand."""
    return Engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="session")
def local_ray(engines: Engines) -> Iterator[None]:
    """One local Ray for all tests that need one in this process: a job joins it and leaves it running."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(engines.directory), prepend=os.pathsep)
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # as `connected` has it for a local Ray
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, object_store_memory=256 << 20, log_to_driver=False,
            _system_config={"metrics_report_interval_ms": 1000},
        )  # fmt: skip
    yield
    ray.shutdown()
