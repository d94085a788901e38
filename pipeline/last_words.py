"""A sentence for an end that has none: Ray's core ends the driver's process itself when the cluster's head is lost.

No Python code runs then, so another process has to say it: a small child waits on a pipe, and speaks when the pipe ends
without a goodbye. The same sentence follows a SIGKILL (the kernel's when memory is full, say). A run that has failed
and is about to leave Ray may end so too, and has better words by then: its reason.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

from pipeline import logs

_GOODBYE = "goodbye"
_CHILD = f"""
import sys
words = sys.stdin.read().strip().rpartition("\\n")[2]
if words != "{_GOODBYE}":
    print(words or sys.argv[1], file=sys.stderr, flush=True)
"""
_WORDS = (
    "the process was ended from outside: killed, or the Ray cluster's head was lost; what is finished "
    "stays, run the same command again to resume"
)


class LastWords:
    """What is said if this process ends before it could say more."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe

    def become(self, sentence: str) -> None:
        """Puts a sentence in the place of that of an end from outside."""
        self._write(logs.last_line(sentence))

    def forget(self) -> None:
        """Nothing is to be said: the process goes on by itself."""
        self._write(_GOODBYE)
        with contextlib.suppress(BrokenPipeError):
            self._pipe.close()

    def _write(self, line: str) -> None:
        # Whoever ended the child has taken its words too.
        with contextlib.suppress(BrokenPipeError):
            self._pipe.write(line.encode() + b"\n")
            self._pipe.flush()


@contextlib.contextmanager
def last_words() -> Iterator[LastWords]:
    """Has a sentence said on stderr if this process ends, in whatever way, before the block does."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _CHILD, logs.last_line(_WORDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # A session of its own: Ctrl-C is for the run, which says its own words.
        start_new_session=True,
    )
    assert child.stdin is not None
    words = LastWords(child.stdin)
    try:
        yield words
    finally:
        words.forget()
        child.wait()
