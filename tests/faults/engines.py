"""Engines that fail in a worker's process, on purpose. Nothing of the product knows of them.

A worker imports ``sitecustomize`` from the directory that `plant` made, because the driver's environment puts it on
``PYTHONPATH``; it waits for the product's own module to be imported and wraps the model's class. So the fault happens
inside a living actor of a real run, in the model, as it would with a bad driver or a full card.
"""

from __future__ import annotations

from pathlib import Path

_SITE = '''
import importlib.abc, importlib.util, os, sys
from pathlib import Path

DONE = Path({marks!r})

def first(times, name):
    """True for the first so many calls of all processes together."""
    for number in range(times):
        try:
            os.close(os.open(DONE / f"{{name}}-{{number}}", os.O_CREAT | os.O_EXCL))
            return True
        except FileExistsError:
            pass
    return False

def change(module):
    GanBackend = module.GanBackend
    init, render = GanBackend.__init__, GanBackend.render
{fault}

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "actors.backend_gan":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            change(module)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
'''


def plant(directory: Path, fault: str) -> Path:
    """Makes the directory for ``PYTHONPATH``; ``fault`` is the body of a function that changes ``GanBackend``.

    It may use ``init`` and ``render`` (the real ones), ``first(times, name)``, ``os`` and ``sys``.
    """
    marks = directory / "marks"
    marks.mkdir(parents=True)
    body = "\n".join(f"    {line}" for line in fault.strip("\n").splitlines())
    (directory / "sitecustomize.py").write_text(_SITE.format(marks=str(marks), fault=body))
    return directory
