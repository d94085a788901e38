"""Ray's job API over HTTP: submit, follow the log to its end, and tell the job's exit status.

Ray reads ``RAY_AUTH_MODE`` once, when it is first imported: whoever wants a token to be sent sets it before this module
is imported.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from actors.errors import JobError, UserError
from pipeline.without_secrets import without_secrets

STOPPED = 143
"""Exit status of a job that was stopped: what its process would have said of SIGTERM."""
_NO_AGENT = "No available agent"
_EXISTS = "already exists"
_AGAIN = 1.0
_LOST = 60.0
_QUIET = 30.0
"""Seconds without a line after which the cluster is asked about the job: a connection may die in silence."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Submission:
    """What is to run.

    Args:
        id: the job's name in Ray; to submit the same name again is an error there.
        entrypoint: a shell command.
        runtime_env: Ray's runtime environment; ``working_dir`` is a local archive.
        metadata: kept in Ray's job table: no credentials.
        cpus, gpus, memory, resources, labels: what the driver's own process needs; the stages ask for theirs.
    """

    id: str
    entrypoint: str
    runtime_env: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 0.0
    gpus: float = 0.0
    memory: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


class RayJobs:
    """The jobs of one cluster.

    Args:
        address: of its dashboard, ``http://host:8265``.

    Raises:
        UserError: the address is none, or the token is missing or wrong.
        JobError: no cluster answers.
    """

    def __init__(self, address: str) -> None:
        self.address = without_secrets(address)
        # Ray lets both variables overrule the address that it is given.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        with self._sentences():
            self._client = JobSubmissionClient(address)

    def submit(self, job: Submission, patience: float, say: Callable[[str], None]) -> None:
        """Starts a job, and waits up to ``patience`` seconds for a cluster that is not ready to start any.

        The dashboard answers before the head's agent does, which starts jobs. A reply that is lost is no failure: the
        request is sent again under the same id, and that the job then exists already says that it was heard.
        """
        deadline, unsure, waiting = time.monotonic() + patience, False, False
        while True:
            try:
                with self._sentences():
                    self._client.submit_job(
                        entrypoint=job.entrypoint,
                        submission_id=job.id,
                        runtime_env=dict(job.runtime_env),
                        metadata=dict(job.metadata),
                        entrypoint_num_cpus=job.cpus or None,
                        entrypoint_num_gpus=job.gpus or None,
                        entrypoint_memory=job.memory or None,
                        entrypoint_resources=dict(job.resources) or None,
                        entrypoint_label_selector=dict(job.labels) or None,
                    )
                return
            except JobError as error:
                text = str(error)
                if _EXISTS in text:
                    if unsure:
                        return
                    raise UserError(f"the cluster has a job '{job.id}' already: give another --id") from None
                lost = isinstance(error.__cause__, requests.ConnectionError)
                if not (lost or _NO_AGENT in text) or time.monotonic() > deadline:
                    raise
                unsure = unsure or lost
            if not waiting:
                say("the cluster is not ready to start jobs yet: waiting")
                waiting = True
            time.sleep(_AGAIN)

    def follow(self, job: str, write: Callable[[str], None]) -> int:
        """Hands the log's whole lines to ``write`` until the job ends; returns its exit status.

        A connection that breaks is made again, and what was handed over is not repeated.

        Raises:
            UserError: there is no such job.
            JobError: the cluster has not answered for a minute, or the job never started.
        """
        seen, lost_at = 0, None
        while True:
            broken = None
            try:
                for text in self._log(job, seen):
                    seen, lost_at = seen + len(text), None
                    write(_COLOUR.sub("", text))
            except JobError as error:
                broken = error  # the node that ran the job may be gone, and the cluster still know how it ended
            try:
                details = self._details(job)
            except JobError as error:
                broken = error
            else:
                lost_at = None
                if details.status.is_terminal():
                    return _exit_status(job, details)
            if broken is not None:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > _LOST:
                    raise JobError(
                        f"the job '{job}' may still run, but the cluster does not answer: {broken}"
                    ) from broken
            time.sleep(_AGAIN)

    def _details(self, job: str) -> JobDetails:
        with self._sentences():
            try:
                return self._client.get_job_info(job)
            except RuntimeError as error:
                if "does not exist" in str(error):
                    raise UserError(f"the cluster at {self.address} has no job '{job}'") from None
                raise

    def _log(self, job: str, seen: int) -> Iterator[str]:
        """The log's text after its first ``seen`` characters, cut at line ends."""
        held = ""
        with asyncio.Runner() as runner:
            chunks, pending = self._client.tail_job_logs(job), None
            while True:
                with self._sentences():
                    pending, chunk = runner.run(_next(chunks, pending))
                if chunk is None or (pending is not None and self._details(job).status.is_terminal()):
                    break
                skipped = min(seen, len(chunk))
                seen -= skipped
                whole, newline, held = (held + chunk[skipped:]).rpartition("\n")
                if newline:
                    yield whole + newline
        if held:
            yield held + "\n"

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turns what Ray's client and its HTTP libraries raise into the project's errors."""
        try:
            yield
        except AuthenticationError as error:
            held = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
            what = "does not take this token" if held else "asks for a token"
            raise UserError(
                f"the cluster at {self.address} {what}: set RAY_AUTH_TOKEN, or name the token's file with --token-file"
            ) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise UserError(f"'{self.address}' is no address of a Ray dashboard, such as http://host:8265") from error
        except (ConnectionError, requests.RequestException, aiohttp.ClientError, TimeoutError) as error:
            raise JobError(f"no Ray dashboard answers at {self.address} ({type(error).__name__})") from error
        except RuntimeError as error:
            lines = [line for line in without_secrets(str(error)).splitlines() if line.strip()]
            told = next((line for line in reversed(lines) if _NO_AGENT in line or _EXISTS in line), " ".join(lines))
            raise JobError(f"Ray at {self.address} refuses: {told.strip()[:500]}") from error


async def _next(
    chunks: AsyncIterator[str], pending: asyncio.Task[str | None] | None
) -> tuple[asyncio.Task[str | None] | None, str | None]:
    """The next chunk, or an empty one and the task that still waits for it; None at the end."""

    async def one() -> str | None:
        return await anext(chunks, None)

    task = pending or asyncio.create_task(one())
    done, _ = await asyncio.wait({task}, timeout=_QUIET)
    return (None, task.result()) if done else (task, "")


def _exit_status(job: str, details: JobDetails) -> int:
    """The status of the job's own process.

    Raises:
        JobError: the process never started, or the cluster lost it.
    """
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        return STOPPED
    code = details.driver_exit_code
    if code:
        return int(code) if code > 0 else 128 - int(code)
    first = next(iter((details.message or "no reason is given").splitlines()), "no reason is given")
    raise JobError(f"Ray could not run the job '{job}': {without_secrets(first)[:300]}")
