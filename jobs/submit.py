"""Submits a job to a Ray cluster over HTTP, and follows it: ``promptmill submit CONFIG.yaml --address http://...``.

The user's mistakes are told first, without any cluster. `pipeline.ray_jobs` is imported last: Ray looks at its
environment when it is imported, and the token has to be there by then.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import UserError
from jobs.printing import tell
from pipeline import logs
from pipeline.config_base import Section
from pipeline.inert_text import printable
from pipeline.package import Package
from pipeline.preflight import checked_config, checked_runtime_env, refuse_secret
from pipeline.run_date import run_date
from pipeline.storage_errors import public_uri
from promptmill import __version__

JOBS = {
    "synthesize": ("pipeline.config", "SynthesizeConfig"),
    "nightly": ("pipeline.nightly_config", "NightlyConfig"),
    "refine": ("pipeline.refine_config", "RefineConfig"),
    "evaluate": ("pipeline.evaluate_config", "EvaluateConfig"),
    "train-encoder": ("pipeline.train_encoder", "TrainEncoderConfig"),
    "train-gan": ("pipeline.gan_config", "TrainGanConfig"),
}
"""What can be submitted, and where its config is defined."""
_DATED = ("synthesize", "nightly")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Asked:
    """The options of one call; see ``promptmill submit --help``."""

    job: str = "synthesize"
    working_dir: Path = Path()
    excludes: Sequence[str] = ()
    runtime_env: Path | None = None
    id: str | None = None
    metadata: Sequence[str] = ()
    cpus: float = 0.0
    gpus: float = 0.0
    memory: int = 0
    resources: Sequence[str] = ()
    labels: Sequence[str] = ()
    wait: float = 60.0
    follow: bool = False
    date: str | None = None


def run(
    config_path: Path | None, overrides: list[str], asked: Asked, *, address: str | None, token: Path | None
) -> int:
    """Checks, packs, submits; follows the log where asked, and returns the job's exit status then."""
    if asked.job not in JOBS:
        raise UserError(f"no job '{asked.job}' can be submitted; choose of {', '.join(JOBS)}")
    date = _date(asked)
    where = _dashboard(address)
    if asked.id is not None and not _ID.fullmatch(asked.id):
        raise UserError(f"--id {asked.id!r} is no name of a job: letters, digits, '.', '_' and '-', 100 at most")
    package = Package(asked.working_dir, asked.excludes)
    config, remark = checked_config(_config(asked.job), config_path, overrides, package)
    runtime_env = checked_runtime_env(asked.runtime_env)
    metadata = _pairs("--metadata", asked.metadata)
    for name, value in metadata.items():
        refuse_secret("--metadata", name, value)
    resources = {
        name: _number("--resource", name, text) for name, text in _pairs("--resource", asked.resources).items()
    }
    labels = _pairs("--label", asked.labels)
    archive = package.archive()
    if remark:
        tell(remark)
    _authenticate(token)
    from pipeline.ray_jobs import RayJobs, Submission

    with tempfile.TemporaryDirectory(prefix="promptmill-submit-") as scratch:
        packed = Path(scratch) / "working_dir.zip"
        packed.write_bytes(archive)
        job = Submission(
            id=asked.id or f"promptmill-{asked.job}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}",
            entrypoint=_entrypoint(asked.job, date, config_path, overrides, package),
            runtime_env={**runtime_env, "working_dir": str(packed)},
            metadata={"promptmill_version": __version__, "promptmill_job": asked.job, **_output(config), **metadata},
            cpus=asked.cpus,
            gpus=asked.gpus,
            memory=asked.memory,
            resources=resources,
            labels=labels,
        )
        jobs = RayJobs(where)
        tell(f"sending {len(package.files)} files, {len(archive) / 1e6:.1f} MB, to {jobs.address}")
        jobs.submit(job, asked.wait, tell)
    tell(f"submitted as {job.id}")
    if not asked.follow:
        tell(f"follow it with: {_attach(job.id, jobs.address)}")
        return 0
    return _follow(jobs, job.id)


def attach(job: str, *, address: str | None, token: Path | None) -> int:
    """Follows a job that was submitted before, from the start of its log; returns its exit status."""
    where = _dashboard(address)
    _authenticate(token)
    from pipeline.ray_jobs import RayJobs

    return _follow(RayJobs(where), job)


def _follow(jobs: Any, job: str) -> int:
    try:
        person = sys.stdout.isatty()

        def show(text: str) -> None:
            print(printable(logs.plain(text) if person else text, lines=True), end="", flush=True)

        status: int = jobs.follow(job, show)
    except KeyboardInterrupt:
        tell(f"detached; the job goes on. Follow it again with: {_attach(job, jobs.address)}")
        tell(f"end it with: ray job stop --address {jobs.address} {job}")
        return 130
    tell(f"job {job} ended with status {status}")
    return status


def _attach(job: str, address: str) -> str:
    return f"promptmill submit --attach {job} --address {address}"


def _dashboard(address: str | None) -> str:
    """The dashboard's address: as given, else as Ray's variables say."""
    found = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS", "")
    if not re.match(r"https?://[^/]", found):
        raise UserError(
            "--address must be the HTTP address of the cluster's dashboard, such as http://host:8265"
            + (f", not '{public_uri(found)}'" if found else "")
        )
    return found.rstrip("/")


def _authenticate(token: Path | None) -> None:
    """Has Ray send a token where there is one; it reads these variables when it is imported."""
    if token is not None:
        if not token.is_file():
            raise UserError(f"no token file at '{token}'")
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token.absolute())
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if given or (Path.home() / ".ray/auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _config(job: str) -> type[Section]:
    from importlib import import_module

    module, name = JOBS[job]
    found: type[Section] = getattr(import_module(module), name)
    return found


def _entrypoint(job: str, date: str | None, config: Path | None, overrides: list[str], package: Package) -> str:
    words = ["python", "-m", f"jobs.{job.replace('-', '_')}"]
    if config is not None:
        words.append(config.absolute().relative_to(package.directory).as_posix())
    if date is not None:
        words += ["--date", date]
    return shlex.join([*words, *overrides])


def _date(asked: Asked) -> str | None:
    """The run date: as given; else a night's is today's, settled here, for a job may wait past midnight."""
    if asked.date is not None and asked.job not in _DATED:
        raise UserError(f"--date is for the jobs {' and '.join(_DATED)}, not for {asked.job}")
    return run_date(asked.date) if asked.date is not None or asked.job == "nightly" else None


def _output(config: Section | None) -> dict[str, str]:
    uri = getattr(getattr(config, "output", None), "uri", None)
    return {"promptmill_output": public_uri(uri)} if uri else {}


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UserError(f"{option} takes NAME=VALUE, not {text!r}")
        found[name] = value
    return found


def _number(option: str, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{option} {name}={text}: the amount must be a number") from None


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["submit", *sys.argv[1:]]))
