"""infra/kuberay as kustomize renders it: held to the schemas of Kubernetes and KubeRay, and to policies of our own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from actors.cache_limit import parse_size
from pipeline.config import SynthesizeConfig
from pipeline.nightly_config import NightlyConfig
from tests.infra.kuberay_schema import SCHEMAS
from tests.infra.rendered import KUBERAY, OVERLAYS, Object, Pod, amount, jobs, objects, of_kind, pods, ray_pods

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


# --- schemas ---


@each_overlay
def test_core_objects_and_pod_templates_are_valid_kubernetes(overlay: str) -> None:
    version = kubernetes_validate.latest_version()
    for found in objects(overlay):
        if not found["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(found, version, strict=True)
    for pod in pods(overlay):
        wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": pod.template}
        kubernetes_validate.validate(wrapped, version, strict=True)


@each_overlay
def test_ray_objects_have_the_fields_that_kuberay_knows(overlay: str) -> None:
    found = [one for one in objects(overlay) if one["kind"] in SCHEMAS] + jobs(overlay)
    assert found
    for one in found:
        jsonschema.validate(one, SCHEMAS[one["kind"]])


@each_overlay
def test_ray_objects_pass_the_real_crds(overlay: str) -> None:
    directory = os.environ.get("PROMPTMILL_KUBERAY_CRDS")
    if directory is None:
        pytest.skip("PROMPTMILL_KUBERAY_CRDS names no directory of KubeRay's CRDs")
    for one in [one for one in objects(overlay) if one["apiVersion"] == "ray.io/v1"] + jobs(overlay):
        crd = yaml.safe_load((Path(directory) / f"ray.io_{one['kind'].lower()}s.yaml").read_text())
        (schema,) = [each["schema"]["openAPIV3Schema"] for each in crd["spec"]["versions"] if each["name"] == "v1"]
        jsonschema.Draft4Validator(_strict(schema)).validate(one)


def _strict(schema: Object) -> Object:
    """The schema with unknown fields forbidden, which the API server drops in silence."""
    strict = {key: _strict(value) if isinstance(value, dict) else value for key, value in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema and len(schema["properties"]) > 3:
        strict["additionalProperties"] = False
    return strict


def test_a_misspelt_field_is_found() -> None:
    (job,) = jobs("cpu")
    with pytest.raises(jsonschema.ValidationError, match="ttlSecondsAfterFinish"):
        jsonschema.validate({**job, "spec": {**job["spec"], "ttlSecondsAfterFinish": 1}}, SCHEMAS["RayJob"])


# --- policies: pods ---


@each_overlay
def test_01_pods_fit_the_restricted_profile(overlay: str) -> None:
    (namespace,) = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    contexts = [(pod.spec["securityContext"], pod.container["securityContext"]) for pod in pods(overlay)]
    for job in jobs(overlay):  # the autoscaler runs in the head's pod, with a context of its own
        contexts.append(({}, job["spec"]["rayClusterSpec"]["autoscalerOptions"]["securityContext"]))
    for _, own in contexts:
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["runAsNonRoot"] is True
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}
    for pod in pods(overlay):
        assert not any(pod.spec.get(shared) for shared in ("hostNetwork", "hostPID", "hostIPC"))
        kinds = {kind for volume in pod.spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "secret", "emptyDir", "projected"}


@each_overlay
def test_02_the_root_is_read_only_and_what_must_be_written_is_mounted(overlay: str) -> None:
    for pod in pods(overlay):
        assert pod.container["securityContext"]["readOnlyRootFilesystem"] is True
    for pod in ray_pods(overlay):
        mounted = {mount["mountPath"] for mount in pod.container["volumeMounts"]}
        assert {"/tmp", "/home/promptmill", "/dev/shm"} <= mounted


@each_overlay
def test_03_all_pods_run_as_the_images_user(overlay: str) -> None:
    user = re.search(r"^USER (\d+):(\d+)$", (KUBERAY.parent / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    for pod in pods(overlay):
        assert (pod.spec["securityContext"]["runAsUser"], pod.spec["securityContext"]["runAsGroup"]) == (
            int(user[1]),
            int(user[2]),
        )


@each_overlay
def test_04_only_the_head_and_the_cronjob_hold_a_token_of_the_api_server(overlay: str) -> None:
    mounts = {found["metadata"]["name"]: found.get("automountServiceAccountToken", True)
              for found in of_kind(overlay, "ServiceAccount")}  # fmt: skip
    for pod in pods(overlay):
        holds = pod.spec.get("automountServiceAccountToken", mounts[pod.spec["serviceAccountName"]])
        assert holds == (pod.role in ("head", "nightly")), pod.role
        assert (pod.labels.get("promptmill.dev/api-server") == "true") == holds, pod.role


@each_overlay
def test_05_images_have_a_tag_that_does_not_move(overlay: str) -> None:
    for pod in pods(overlay):
        name, _, tag = pod.container["image"].rpartition(":")
        assert "/" in name
        assert tag not in ("", "latest", "nightly")


@each_overlay
def test_06_no_secret_stands_in_a_manifest_or_in_a_variable(overlay: str) -> None:
    assert not of_kind(overlay, "Secret")
    for pod in pods(overlay):
        for variable in pod.container.get("env", []):
            assert "valueFrom" not in variable
            assert not re.search(r"KEY|TOKEN|PASSWORD|SECRET", variable["name"])
    for table in of_kind(overlay, "ConfigMap"):
        assert not re.search(r"(?i)secret_access_key|aws_access_key_id|password:", str(table["data"]))


@each_overlay
def test_07_a_pod_that_died_is_not_started_again_under_the_same_name(overlay: str) -> None:
    for pod in pods(overlay):
        assert pod.spec["restartPolicy"] == "Never", "the autoscaler's second version asks for it"


# --- policies: the run ---


@each_overlay
def test_08_a_run_ends_and_leaves_nothing_running(overlay: str) -> None:
    for job in jobs(overlay):
        spec = job["spec"]
        assert spec["shutdownAfterJobFinishes"] is True
        assert spec["ttlSecondsAfterFinished"] >= 60
        assert spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
        assert 0 < (spec["backoffLimit"] + 1) * spec["activeDeadlineSeconds"] < 24 * 3600, "all tries within a day"


@each_overlay
def test_09_ray_asks_for_a_token(overlay: str) -> None:
    for job in jobs(overlay):
        assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


@each_overlay
def test_10_the_head_takes_no_work(overlay: str) -> None:
    for pod in pods(overlay):
        if pod.role == "head":
            assert (pod.start["num-cpus"], pod.start["num-gpus"]) == ("0", "0")
            assert "nvidia.com/gpu" not in pod.container["resources"]["requests"]
            assert "tolerations" not in pod.spec, "it does not sit on a GPU node"


@each_overlay
def test_11_workers_grow_from_none(overlay: str) -> None:
    for job in jobs(overlay):
        cluster = job["spec"]["rayClusterSpec"]
        assert cluster["enableInTreeAutoscaling"] is True
        assert cluster["autoscalerOptions"]["version"] == "v2"
        for group in cluster["workerGroupSpecs"]:
            assert (group["replicas"], group["minReplicas"]) == (0, 0)
            assert 1 <= group["maxReplicas"] <= 64


def spot_terms(pod: Pod) -> list[Object]:
    affinity = pod.spec.get("affinity", {}).get("nodeAffinity", {})
    return affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])


@each_overlay
def test_12_gpus_are_on_spot_and_the_head_is_not(overlay: str) -> None:
    for pod in ray_pods(overlay):
        terms = spot_terms(pod)
        if pod.role == "head":
            (term,) = terms
            assert len(term["matchExpressions"]) == 4
            assert {each["operator"] for each in term["matchExpressions"]} == {"NotIn"}
        elif "nvidia.com/gpu" in pod.container["resources"]["requests"]:
            assert {each["operator"] for term in terms for each in term["matchExpressions"]} == {"In"}
            assert "nvidia.com/gpu" in {toleration["key"] for toleration in pod.spec["tolerations"]}
            grace = pod.spec["terminationGracePeriodSeconds"]
            assert 60 <= grace <= 120, "no longer than the clouds' notice"
            (drain,) = [e["value"] for c in pod.spec["containers"] for e in c.get("env", []) if "DRAIN" in e["name"]]
            assert 0 < int(drain) <= grace - 10, "Ray's own drain ends before the pod is killed"
        elif overlay == "cpu":
            assert not terms
    assert overlay == "cpu" or any("nvidia.com/gpu" in pod.container["resources"]["requests"] for pod in pods(overlay))


@each_overlay
def test_13_what_ray_counts_is_what_the_pod_requests(overlay: str) -> None:
    for pod in ray_pods(overlay):
        requests, limits = pod.container["resources"]["requests"], pod.container["resources"]["limits"]
        assert requests["memory"] == limits["memory"]
        assert "cpu" not in limits, "a limit would throttle a node that has nothing else to do"
        assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")
        assert float(pod.start["num-gpus"]) == float(requests.get("nvidia.com/gpu", 0))
        if pod.role != "head":
            assert float(pod.start["num-cpus"]) == amount(requests["cpu"])
        volumes = {volume["name"]: volume.get("emptyDir", {}) for volume in pod.spec["volumes"]}
        assert float(pod.start["object-store-memory"]) <= amount(volumes["shm"]["sizeLimit"])
        assert amount(volumes["shm"]["sizeLimit"]) <= amount(limits["memory"]) / 4, "memory that the models lack"
        on_disk = amount(volumes["tmp"]["sizeLimit"]) + amount(volumes["home"]["sizeLimit"])
        assert on_disk <= amount(limits["ephemeral-storage"]) == amount(requests["ephemeral-storage"])


def run_config(overlay: str) -> SynthesizeConfig:
    """The job's config, as the command that the entrypoint names reads it."""
    (text,) = [
        found["data"]["config.yaml"] for found in of_kind(overlay, "ConfigMap") if "config.yaml" in found["data"]
    ]
    (command,) = {job["spec"]["entrypoint"].split()[2] for job in jobs(overlay)}
    kind = {"jobs.synthesize": SynthesizeConfig, "jobs.nightly": NightlyConfig}[command]
    return kind.model_validate(yaml.safe_load(text))


@each_overlay
def test_14_the_jobs_actors_fill_the_workers_that_the_cluster_may_have(overlay: str) -> None:
    config = run_config(overlay)
    for job in jobs(overlay):
        groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        starts = [(group["maxReplicas"], group["rayStartParams"]) for group in groups]
        have_cpus = sum(count * float(start["num-cpus"]) for count, start in starts)
        have_gpus = sum(count * float(start["num-gpus"]) for count, start in starts)
        assert config.expand is not None
        pools = [config.expand.actors, config.generate.actors]
        assert all(pool.max is not None for pool in pools)
        assert sum((pool.max or 0) * pool.cpus for pool in pools) < have_cpus, "reading needs a CPU too"
        assert sum((pool.max or 0) * pool.gpus for pool in pools) <= have_gpus + 1e-9
        # One actor of each stage fits one worker: the smallest cluster that works has one.
        assert any(
            sum(pool.cpus for pool in pools) + 1 <= float(start["num-cpus"])
            and sum(pool.gpus for pool in pools) <= float(start["num-gpus"]) + 1e-9
            for _, start in starts
        )
        if have_gpus:
            assert config.cluster.cpu_fallback is False, (
                "it would take a cluster that has not grown yet for one of CPUs"
            )


@each_overlay
def test_15_ray_is_the_version_that_is_pinned(overlay: str) -> None:
    for job in jobs(overlay):
        assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__
    assert f"\nray=={ray.__version__}\n" in (KUBERAY.parents[1] / "constraints.txt").read_text()


@each_overlay
def test_16_the_heads_node_is_not_drained_under_a_run(overlay: str) -> None:
    (budget,) = of_kind(overlay, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 0
    wanted = budget["spec"]["selector"]["matchLabels"].items()
    assert [pod.role for pod in pods(overlay) if wanted <= pod.labels.items()] == ["head"]


# --- policies: the network ---


def chosen(policy: Object, pod: Pod) -> bool:
    selector = policy["spec"]["podSelector"]
    return selector.get("matchLabels", {}).items() <= pod.labels.items() and all(
        pod.labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", [])
    )


@each_overlay
def test_17_all_pods_are_denied_first(overlay: str) -> None:
    (deny,) = [found for found in of_kind(overlay, "NetworkPolicy") if found["metadata"]["name"] == "default-deny"]
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in of_kind(overlay, "NetworkPolicy"):
        rules = policy["spec"].get("ingress", []) + policy["spec"].get("egress", [])
        # The schema takes any word here, and the API server refuses it on the day.
        assert {port["protocol"] for rule in rules for port in rule["ports"]} <= {"TCP", "UDP"}


@each_overlay
def test_18_the_head_is_reached_by_own_pods_the_operator_and_prometheus_alone(overlay: str) -> None:
    (head,) = [pod for pod in pods(overlay) if pod.role == "head"]
    for policy in of_kind(overlay, "NetworkPolicy"):
        if not chosen(policy, head):
            continue
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"], "an empty `from` is the whole world"
            assert rule["ports"]
            for peer in rule["from"]:
                assert "ipBlock" not in peer
                if "podSelector" not in peer:
                    assert peer["namespaceSelector"]["matchLabels"], "a namespace by name"
                    assert [port["port"] for port in rule["ports"]] == [8080]


@each_overlay
def test_19_egress_is_names_own_pods_the_bucket_over_tls_and_the_api_server(overlay: str) -> None:
    for policy in of_kind(overlay, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            assert rule["ports"]
            for peer in rule["to"]:
                block = peer.get("ipBlock")
                if block is None:
                    assert peer["podSelector"]
                elif block["cidr"] == "0.0.0.0/0":
                    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(block["except"])
                    assert [port["port"] for port in rule["ports"]] == [443]
                else:
                    wants = policy["spec"]["podSelector"].get("matchLabels", {})
                    assert wants.get("promptmill.dev/api-server") == "true"


@each_overlay
def test_20_the_ports_that_ray_is_told_are_the_ports_that_are_open(overlay: str) -> None:
    (policy,) = [found for found in of_kind(overlay, "NetworkPolicy") if found["metadata"]["name"] == "ray"]
    (rule,) = policy["spec"]["ingress"]
    open_ports = {
        number for port in rule["ports"] for number in range(port["port"], port.get("endPort", port["port"]) + 1)
    }
    for pod in ray_pods(overlay):
        assert chosen(policy, pod)
        told = {name: int(value) for name, value in pod.start.items() if name.endswith("-port")}
        assert len(told) == 7
        assert set(told.values()) <= open_ports
        assert set(range(told["min-worker-port"], told["max-worker-port"] + 1)) <= open_ports
        assert told["max-worker-port"] - told["min-worker-port"] >= 64, "a port for each process of a large node"


# --- policies: the night ---


def test_21_the_cronjob_starts_one_run_a_day() -> None:
    (cron,) = of_kind("nightly", "CronJob")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    assert cron["spec"]["timeZone"] == "Etc/UTC", "the day that the job's own clock names"
    minute, hour, *days = cron["spec"]["schedule"].split()
    assert days == ["*", "*", "*"]
    latest = int(hour) * 3600 + int(minute) * 60 + cron["spec"]["startingDeadlineSeconds"]
    latest += cron["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    assert latest < 24 * 3600, "a late start is still of the same day"
    assert not of_kind("nightly", "RayJob"), "the template is data, and no work"


def test_22_the_cronjob_may_create_rayjobs_and_nothing_else() -> None:
    (role,) = of_kind("nightly", "Role")
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
    (binding,) = of_kind("nightly", "RoleBinding")
    assert [subject["name"] for subject in binding["subjects"]] == ["promptmill-nightly"]
    for overlay in OVERLAYS:
        assert not of_kind(overlay, "ClusterRole")
        assert not of_kind(overlay, "ClusterRoleBinding")


def test_23_kueue_is_asked_where_there_are_gpus() -> None:
    for overlay in ("gpu-spot", "nightly"):
        (job,) = jobs(overlay)
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
        assert job["metadata"]["annotations"]["kueue.x-k8s.io/elastic-job"] == "true", "it grows by itself"


def test_24_the_frozen_template_is_what_its_overlay_renders() -> None:
    command = [sys.executable, str(KUBERAY / "freeze.py"), str(KUBERAY / "overlays/nightly/job"), "/dev/stdout"]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert rendered == (KUBERAY / "overlays/nightly/rayjob.yaml").read_text(), "run `make kuberay-nightly`"


@each_overlay
def test_25_every_config_map_that_is_named_is_there(overlay: str) -> None:
    there = {found["metadata"]["name"] for found in of_kind(overlay, "ConfigMap")}
    for pod in pods(overlay):
        named = {volume["configMap"]["name"] for volume in pod.spec["volumes"] if "configMap" in volume}
        named |= {source["configMapRef"]["name"] for source in pod.container.get("envFrom", [])}
        assert named <= there
    accounts = {found["metadata"]["name"] for found in of_kind(overlay, "ServiceAccount")}
    assert {pod.spec["serviceAccountName"] for pod in pods(overlay)} <= accounts


@each_overlay
def test_26_all_that_has_a_namespace_is_in_one(overlay: str) -> None:
    for found in objects(overlay):
        assert found["kind"] == "Namespace" or found["metadata"]["namespace"] == "promptmill", found["metadata"]["name"]


@each_overlay
def test_27_no_pod_takes_a_label_that_kuberay_chooses_its_own_pods_by(overlay: str) -> None:
    for pod in ray_pods(overlay):
        assert not {"app.kubernetes.io/name", "app.kubernetes.io/created-by"} & pod.labels.keys()
        assert not any(label.startswith("ray.io/") for label in pod.labels)


@each_overlay
def test_28_the_cache_of_models_is_told_a_limit_below_its_volumes(overlay: str) -> None:
    for pod in ray_pods(overlay):
        (limit,) = [each["value"] for each in pod.container["env"] if each["name"] == "PROMPTMILL_CACHE_LIMIT"]
        (home,) = [volume for volume in pod.spec["volumes"] if volume["name"] == "home"]
        assert parse_size(limit) < 0.95 * amount(home["emptyDir"]["sizeLimit"]), "beyond it the pod is evicted"
