"""What a figure rests on: the machine and the versions of what ran."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("promptmill", "torch", "transformers", "ray", "pyarrow", "numpy", "pillow", "diffusers", "s3fs")


def machine_facts() -> dict[str, Any]:
    """CPU, cores, memory, system, and the load at this moment."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def versions() -> dict[str, str]:
    """Versions of the packages that decide speed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        facts = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, value in facts.items()}
        wide = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16") if flag in facts.get("flags", "")]
        return f"{facts.get('model name', 'unknown')} ({facts.get('vendor_id', '?')}; {' '.join(wide)})"
    return platform.processor()
