"""Engines that fail in a worker's process, on purpose. Nothing of the product knows of them.

A worker imports ``sitecustomize`` from the directory of `Engines`, because the Ray that starts it has it on
``PYTHONPATH``; it waits for the product's own modules to be imported and wraps the models' classes. So the fault
happens inside a living actor of a real run, in the model, as it would with a bad driver or a full card. Which fault,
if any, a file says at each call: one Ray serves many tests.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

_SITE = '''
import functools, importlib.util, os, sys
from pathlib import Path

HERE = Path(__file__).parent
WRAPPED = {
    "actors.backend_gan": ("GanBackend", {"__init__": "load_gan", "render": "render"}),
    "actors.engine_transformers": ("TransformersEngine", {"__init__": "load_llm", "generate": "generate"}),
}

def first(times, name):
    """True for the first so many calls of all processes together."""
    for number in range(times):
        try:
            os.close(os.open(HERE / "marks" / f"{name}-{number}", os.O_CREAT | os.O_EXCL))
            return True
        except FileExistsError:
            pass
    return False

def wrapped(real, fault):
    @functools.wraps(real)
    def method(*given, **named):
        told = {"first": first}
        try:
            exec((HERE / "fault.py").read_text(), told)
        except FileNotFoundError:
            pass
        return told[fault](real, *given, **named) if fault in told else real(*given, **named)
    return method

class Finder:
    @staticmethod
    def find_spec(name, path, target=None):
        if name not in WRAPPED:
            return None
        sys.meta_path.remove(Finder)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, Finder)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            owner, methods = WRAPPED[name]
            for method, fault in methods.items():
                kind = getattr(module, owner)
                setattr(kind, method, wrapped(getattr(kind, method), fault))
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder)
'''


class Engines:
    """The directory for ``PYTHONPATH`` of what starts the workers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "sitecustomize.py").write_text(_SITE)

    @contextlib.contextmanager
    def fail(self, fault: str) -> Iterator[None]:
        """While the block runs, models fail as the functions of ``fault`` say.

        Args:
            fault: Python text that defines some of ``load_gan``, ``render``, ``load_llm`` and ``generate``; each takes
                the real method and what it was called with. ``first(times, name)`` is True for so many calls in all.
        """
        shutil.rmtree(self.directory / "marks", ignore_errors=True)
        (self.directory / "marks").mkdir()
        (self.directory / "fault.py").write_text(fault)
        try:
            yield
        finally:
            (self.directory / "fault.py").unlink()

    def met(self) -> set[str]:
        """The names that ``first`` was asked about, with their number."""
        return {path.name for path in (self.directory / "marks").iterdir()}
