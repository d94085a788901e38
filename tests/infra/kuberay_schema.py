"""A closed JSON schema of the fields of ray.io/v1 that infra/kuberay uses, after the API reference of KubeRay 1.6.2.

It is narrower than KubeRay's own: an unknown or misspelt field is an error here, where the API server would drop it in
silence. Pod templates are left open in it; they are held to Kubernetes' own schema. Where PROMPTMILL_KUBERAY_CRDS names
ray-operator/config/crd/bases of a KubeRay release, the tests hold the objects to the real CRDs as well.
"""

from __future__ import annotations

from typing import Any


def closed(required: str = "", **properties: Any) -> dict[str, Any]:
    """An object that has these properties and no other."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": {name.rstrip("_"): schema for name, schema in properties.items()},
    }


TEXT = {"type": "string", "minLength": 1}
FLAG = {"type": "boolean"}
OPEN = {"type": "object"}
COUNT = {"type": "integer", "minimum": 0}
POSITIVE = {"type": "integer", "minimum": 1}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}

AUTOSCALER = closed(
    version={"enum": ["v1", "v2"]},
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    idleTimeoutSeconds=COUNT,
    resources=OPEN,
    securityContext=OPEN,
    volumeMounts={"type": "array", "items": OPEN},
    env={"type": "array", "items": OPEN},
    envFrom={"type": "array", "items": OPEN},
    image=TEXT,
    imagePullPolicy=TEXT,
)
HEAD = closed("rayStartParams template", rayStartParams=TEXTS, template=OPEN, labels=TEXTS, resources=TEXTS)
WORKERS = closed(
    "groupName replicas minReplicas maxReplicas rayStartParams template",
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=POSITIVE,
    idleTimeoutSeconds=COUNT,
    numOfHosts=POSITIVE,
    rayStartParams=TEXTS,
    labels=TEXTS,
    resources=TEXTS,
    template=OPEN,
)
CLUSTER = closed(
    "rayVersion headGroupSpec workerGroupSpecs authOptions",
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=closed("mode", mode={"enum": ["token", "disabled"]}, secretName=TEXT),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS, "minItems": 1},
)
JOB_SPEC = closed(
    "entrypoint rayClusterSpec",
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    backoffLimit=COUNT,
    activeDeadlineSeconds=POSITIVE,
    preRunningDeadlineSeconds=POSITIVE,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    suspend=FLAG,
    metadata=TEXTS,
    runtimeEnvYAML=TEXT,
    submitterConfig=closed(backoffLimit=COUNT),
    submitterPodTemplate=OPEN,
    rayClusterSpec=CLUSTER,
)
METADATA = closed("name namespace", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)

SCHEMAS = {
    "RayJob": closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"const": "RayJob"},
        metadata=METADATA,
        spec=JOB_SPEC,
    ),
    "RayCronJob": closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"const": "RayCronJob"},
        metadata=METADATA,
        # 1.7 adds timeZone; the overlay is for 1.6 too.
        spec=closed("schedule jobTemplate", schedule=TEXT, suspend=FLAG, jobTemplate=JOB_SPEC),
    ),
}
