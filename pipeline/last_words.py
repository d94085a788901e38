"""A sentence for an end that has none: Ray's core ends the driver's process itself when the cluster's head is lost.

No Python code runs then, so another process has to say it: a small child waits on a pipe, and speaks when the pipe ends
without a goodbye. The same sentence follows a SIGKILL (the kernel's when memory is full, say).
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from pipeline import logs

_CHILD = "import sys; sys.stdin.buffer.read() or print(sys.argv[1], file=sys.stderr, flush=True)"
_WORDS = (
    "the process was ended from outside: killed, or the Ray cluster's head was lost; what is finished "
    "stays, run the same command again to resume"
)


@contextlib.contextmanager
def last_words() -> Iterator[None]:
    """Has the sentence said on stderr if this process ends, in whatever way, before the block does."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _CHILD, logs.last_line(_WORDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # A session of its own: Ctrl-C is for the run, which says its own words.
        start_new_session=True,
    )
    assert child.stdin is not None
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(b"goodbye")
            child.stdin.close()
        child.wait()
