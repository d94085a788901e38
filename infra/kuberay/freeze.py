"""Writes the RayJob that an overlay renders into the nightly overlay, as the template of its CronJob.

make kuberay-nightly          python infra/kuberay/freeze.py infra/kuberay/overlays/nightly/job OUT.yaml
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml


def frozen(overlay: Path) -> str:
    """The overlay's one RayJob as YAML text. Raises ValueError where it renders none, or several."""
    # Beside this interpreter first: the `dev` extra brings a kubectl of a known version.
    kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"
    rendered = subprocess.run([kubectl, "kustomize", str(overlay)], check=True, capture_output=True, text=True).stdout
    jobs = [found for found in yaml.safe_load_all(rendered) if found["kind"] == "RayJob"]
    if len(jobs) != 1:
        raise ValueError(f"{overlay} renders {len(jobs)} RayJobs; the nightly run is made from one")
    return f"# Written by `make kuberay-nightly` from {overlay.name}/: change that, not this.\n" + yaml.safe_dump(
        jobs[0]
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(frozen(Path(sys.argv[1])))
