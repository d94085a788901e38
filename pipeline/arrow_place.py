"""A store's file system for Arrow and Ray Train, which opens it anew in each process from its URI and options.

A pickled file system would bring along what its process had read from the environment: a customer's encryption key.
"""

from __future__ import annotations

from typing import Any

import pyarrow.fs

from pipeline.storage import Store


class _Reopened(pyarrow.fs.FSSpecHandler):
    def __init__(self, store: Store) -> None:
        super().__init__(store.fs)
        self._store = store

    def __reduce__(self) -> tuple[Any, ...]:
        return _Reopened, (self._store,)


def arrow_filesystem(store: Store) -> pyarrow.fs.PyFileSystem:
    """The store's file system; pickled, it holds what the pickled store does."""
    return pyarrow.fs.PyFileSystem(_Reopened(store))
