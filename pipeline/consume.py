"""The driver's side of the graph: outcomes come out of it, while signals, stalls and errors are seen.

Ray Data is consumed in a thread of its own, so that the main thread can be interrupted while Ray works.
"""

from __future__ import annotations

import queue
import re
import threading
from typing import Any

from actors.errors import JobError, PromptmillError, UserError
from pipeline.board import Board
from pipeline.break_off import break_off
from pipeline.config import SynthesizeConfig
from pipeline.graph import outcomes
from pipeline.outcome import Arrived
from pipeline.progress import RunProgress
from pipeline.run_record import Run
from pipeline.run_watch import RunWatch
from pipeline.silence import Silence
from pipeline.storage import Store


def consume(
    config: SynthesizeConfig,
    run: Run,
    pending: list[int],
    recipes: dict[str, str],
    store: Store,
    progress: RunProgress,
    board: Board,
    watch: RunWatch,
) -> Arrived:
    """Runs the graph over the pending shards until each has its outcome; a run that breaks off leaves no work behind.

    Raises:
        JobError, UserError: what a worker meant; or no shard was committed for ``limits.stall_timeout``.
        BaseException: whatever a signal handler raises here.
    """
    outbox: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue()

    def work() -> None:
        try:
            for outcome in outcomes(config, run, pending, recipes, store, board):
                outbox.put(outcome)
            outbox.put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that can raise it
            outbox.put(error)

    graph = threading.Thread(target=work, name="promptmill-graph", daemon=True)
    graph.start()
    arrived = Arrived()
    silence = Silence()
    try:
        while True:
            try:
                found = outbox.get(timeout=0.5)
            except queue.Empty:
                progress.tick()
                if silence.seconds() > config.limits.stall_timeout:
                    raise JobError(
                        f"no shard was committed for {config.limits.stall_timeout:g} s (limits.stall_timeout) with "
                        f"{len(pending) - arrived.shards} left; {board.standing()}; run again to resume"
                    ) from None
                continue
            if found is None:
                return arrived
            if isinstance(found, BaseException):
                raise _cause(found) from found
            silence.broken()
            arrived.add(found)
            watch.add(found)
            progress.add(found["images"], found["rejected"])
    except BaseException:
        break_off(graph)
        raise


def _cause(error: BaseException) -> BaseException:
    """The error that a worker meant, out of what Ray wrapped around it."""
    if isinstance(error, PromptmillError):
        return error
    # Ray Data's own wrapper drops the cause when it crosses processes; the worker's traceback, as text, still has it.
    meant = _MEANT.findall(_ANSI.sub("", str(error)))
    if meant:
        kind, text = meant[-1]
        return UserError(text) if kind == "UserError" else JobError(text)
    lines = [line for line in _ANSI.sub("", str(error)).splitlines() if _ERROR_LINE.match(line.strip())]
    last = lines[0].strip() if lines else f"{type(error).__name__}: {' '.join(str(error).split())}"
    return JobError(f"the run broke off: {last[:300]}; finished shards stay, run again to resume (--debug shows more)")


_MEANT = re.compile(r"^actors\.errors\.(UserError|JobError): (.+)$", re.MULTILINE)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ERROR_LINE = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Exit)\b: ")
