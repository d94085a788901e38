"""What `kubectl kustomize` makes of the overlays in infra/kuberay, and the pods that would come of it."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
KUBERAY = REPOSITORY / "infra/kuberay"
OVERLAYS = ("cpu", "gpu-spot", "nightly", "nightly-raycronjob")
KUBECTL = str(Path(sys.executable).parent / "kubectl")

Object = dict[str, Any]


@functools.cache
def objects(overlay: str) -> tuple[Object, ...]:
    """The objects that an overlay renders."""
    rendered = subprocess.run(
        [KUBECTL, "kustomize", str(KUBERAY / "overlays" / overlay)], check=True, capture_output=True, text=True
    ).stdout
    return tuple(yaml.safe_load_all(rendered))


def of_kind(overlay: str, kind: str) -> list[Object]:
    """The overlay's objects of one kind."""
    return [found for found in objects(overlay) if found["kind"] == kind]


def jobs(overlay: str) -> list[Object]:
    """The overlay's RayJobs: its own, the template that its CronJob fills in, and what its RayCronJob would make."""
    found = of_kind(overlay, "RayJob")
    for table in of_kind(overlay, "ConfigMap"):
        if "rayjob.yaml" in table["data"]:
            found.append(yaml.safe_load(table["data"]["rayjob.yaml"].replace("@DATE@", "2026-11-26")))
    for cron in of_kind(overlay, "RayCronJob"):
        found.append({**cron, "kind": "RayJob", "spec": cron["spec"]["jobTemplate"]})
    return found


@dataclass
class Pod:
    """A pod template and where it stands."""

    role: str
    template: Object
    start: dict[str, str]

    @property
    def spec(self) -> Object:
        return self.template["spec"]

    @property
    def labels(self) -> dict[str, str]:
        return self.template["metadata"]["labels"]

    @property
    def container(self) -> Object:
        (only,) = self.spec["containers"]
        return only


def pods(overlay: str) -> Iterator[Pod]:
    """All pods that the overlay can bring about."""
    for job in jobs(overlay):
        cluster = job["spec"]["rayClusterSpec"]
        yield Pod("submitter", job["spec"]["submitterPodTemplate"], {})
        yield Pod("head", cluster["headGroupSpec"]["template"], cluster["headGroupSpec"]["rayStartParams"])
        for group in cluster["workerGroupSpecs"]:
            yield Pod(group["groupName"], group["template"], group["rayStartParams"])
    for cron in of_kind(overlay, "CronJob"):
        yield Pod("nightly", cron["spec"]["jobTemplate"]["spec"]["template"], {})


def ray_pods(overlay: str) -> list[Pod]:
    """Those among them that run Ray."""
    return [pod for pod in pods(overlay) if pod.role not in ("submitter", "nightly")]


def amount(quantity: str | float) -> float:
    """A Kubernetes quantity as a number: CPUs, or bytes."""
    text = str(quantity)
    for suffix, factor in (("Ki", 2**10), ("Mi", 2**20), ("Gi", 2**30), ("Ti", 2**40), ("m", 1e-3), ("k", 1e3)):
        if text.endswith(suffix):
            return float(text[: -len(suffix)]) * factor
    return float(text)
