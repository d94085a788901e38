"""Creates the day's RayJob: what the CronJob of the nightly overlay runs, inside the cluster.

    python create_rayjob.py TEMPLATE.yaml [YYYY-MM-DD]

The template is a RayJob in which @DATE@ stands for the day (UTC) and whose name is given the day's digits. A second try
on the same day, or a second CronJob, meets the name and leaves it alone: one RayJob a day, however often this runs. Its
service account may create RayJobs in its own namespace, nothing else.
"""

from __future__ import annotations

import datetime
import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

ACCOUNT = Path(os.environ.get("PROMPTMILL_SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))


def filled(template: str, day: datetime.date) -> dict[str, Any]:
    """The RayJob of one day."""
    job: dict[str, Any] = yaml.safe_load(template.replace("@DATE@", day.isoformat()))
    # KubeRay allows a RayJob 47 characters: names of its pods and services are made from it.
    job["metadata"]["name"] = f"{job['metadata']['name']}-{day:%Y%m%d}"
    return job


def create(job: dict[str, Any]) -> str:
    """Posts the RayJob; says what became of it. Raises OSError where the API server refuses or does not answer."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    namespace, name = (ACCOUNT / "namespace").read_text().strip(), job["metadata"]["name"]
    request = urllib.request.Request(
        f"https://{host}:{port}/apis/{job['apiVersion']}/namespaces/{namespace}/rayjobs",
        data=json.dumps(job).encode(),
        headers={
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}",
            "Content-Type": "application/json",
        },
        method="POST",
    )
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=30, context=trusted):
            return f"RayJob {namespace}/{name} created"
    except urllib.error.HTTPError as error:
        answer = error.read().decode("utf-8", "replace")
        if error.code == 409:
            return f"RayJob {namespace}/{name} is there already: left alone"
        try:
            answer = json.loads(answer)["message"]
        except (ValueError, KeyError, TypeError):
            answer = answer[:300]
        raise OSError(f"the API server refused RayJob {namespace}/{name} ({error.code}): {answer}") from error


def main() -> int:
    """Exit status 0: the day's RayJob exists; 1: it does not, and the CronJob's own retries go on."""
    day = datetime.date.fromisoformat(sys.argv[2]) if len(sys.argv) > 2 else datetime.datetime.now(datetime.UTC).date()
    try:
        print(create(filled(Path(sys.argv[1]).read_text(), day)))
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
