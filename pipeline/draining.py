"""An actor on a node that is to go: it finishes what it can before the node ends, and gives the rest back at once.

Ray marks a node as draining when a spot machine's notice reaches it, or when ``ray start --block`` gets SIGTERM
(for ``RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S``). Ray Data sends nothing more there, but its actors stay until the node
dies under them, with what waits for them. Here the actor ends its own process as soon as nothing is inside that will be
finished in time: Ray starts it again on another node, with its shards, while this one still has its notice to run out.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import ray

from pipeline.exits import leave_process

_EVERY = 1.0


def node_deadline() -> float | None:
    """When this node is to end, in seconds since the epoch (infinite where nobody knows); None while it stays."""
    # As Ray Train and Ray Data ask themselves; there is no public way.
    draining = ray._private.state.state.get_draining_nodes()
    at: int | None = draining.get(ray.get_runtime_context().get_node_id())
    return None if at is None else (at / 1000 or float("inf"))


class Inside:
    """A shard inside the actor."""

    def __init__(self) -> None:
        self._total, self._done, self._since = 0, _nothing, time.time()

    def counts(self, total: int, done: Callable[[], int]) -> None:
        """From now on it is known how much of it there is, and how much of that is done."""
        self._total, self._done, self._since = total, done, time.time()

    def ends_by(self, deadline: float) -> bool:
        """Whether it will be finished by then at the pace that it has had; yes while nothing is known of that."""
        now, done = time.time(), self._done()
        left = (now - self._since) * (self._total - done) / done if done else 0.0
        return now + left < deadline


def _nothing() -> int:
    return 0


class Draining:
    """Watches the node for one actor.

    Args:
        stage: its name, for the log.
        deadline: asks when the node is to end.
        leave: ends the process, and is told the stage and why.
        every: seconds between two looks.
    """

    def __init__(
        self,
        stage: str,
        deadline: Callable[[], float | None] = node_deadline,
        leave: Callable[[str, str], object] = leave_process,
        every: float = _EVERY,
    ) -> None:
        self._stage, self._deadline, self._leave, self._every = stage, deadline, leave, every
        self._lock = threading.Lock()
        self._inside: list[Inside] = []
        self._going = False
        # A stage that somebody calls in a process of his own is on no node that Ray takes away.
        if ray.is_initialized() or deadline is not node_deadline:
            threading.Thread(target=self._watch, name="promptmill-draining", daemon=True).start()

    @contextlib.contextmanager
    def shard(self) -> Iterator[Inside]:
        """Counts a shard as inside while the block runs; it never begins where the node is to go: Ray gives it on."""
        inside = Inside()
        with self._lock:
            going = self._going
            if not going:
                self._inside.append(inside)
        if going:
            threading.Event().wait()  # the process ends under it
        try:
            yield inside
        finally:
            with self._lock:
                self._inside.remove(inside)

    def _watch(self) -> None:
        quiet = False
        while True:
            time.sleep(self._every)
            with contextlib.suppress(Exception):  # a GCS that does not answer for a while is no notice
                deadline = self._deadline()
                if deadline is None:
                    continue
                with self._lock:
                    self._going = True
                    late = [shard for shard in self._inside if not shard.ends_by(deadline)]
                    empty = not self._inside
                # What was returned last is on its way to the driver still: one more round before the process ends.
                if (empty and quiet) or (late and len(late) == len(self._inside)):
                    told = f"{len(late)} shard(s) given back" if late else "nothing was under way"
                    # Not ray.actor.exit_actor(): who leaves by that is not started again.
                    self._leave(self._stage, f"its node is to go, {told}")
                    return
                quiet = empty
