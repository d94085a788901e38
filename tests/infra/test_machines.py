"""infra without Kubernetes: Ray's launcher, systemd, `ray start`, Slurm. What can be run here is run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from omegaconf import OmegaConf
from ray.autoscaler._private.util import prepare_config, validate_config

from tests import models
from tests.infra.rendered import REPOSITORY, of_kind

MACHINES, SLURM = REPOSITORY / "infra/machines", REPOSITORY / "infra/slurm"
BIN = Path(sys.executable).parent
UNITS = sorted(path for path in MACHINES.iterdir() if path.suffix in (".service", ".timer"))
SYSTEMD = shutil.which("systemd-analyze")
OWN_NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root: Ray is run in namespaces of its own"
)


# --- ray up ---


def test_the_launcher_takes_its_config_and_installs_nothing() -> None:
    config = yaml.safe_load((REPOSITORY / "infra/ray-up/aws-spot.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["setup_commands"] == prepared["head_setup_commands"] == prepared["worker_setup_commands"] == []
    head, gpu = (prepared["available_node_types"][name] for name in ("head", "gpu-spot"))
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert gpu["min_workers"] == 0
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    for kind in (head, gpu):
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    starts = [prepared[f"{role}_start_ray_commands"][-1] for role in ("head", "worker")]
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    (ssh,) = prepared["provider"]["security_group"]["IpPermissions"]
    assert ssh["IpRanges"] != [{"CidrIp": "0.0.0.0/0"}]


def test_the_launcher_refuses_a_key_that_it_does_not_know() -> None:
    config = yaml.safe_load((REPOSITORY / "infra/ray-up/aws-spot.yaml").read_text())
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config({**config, "idle_timeout": 5}))


# --- systemd ---


def installed(root: Path) -> list[str]:
    """The units as on a machine, but for the place where promptmill is installed; their paths."""
    for script in ("ray-node.sh", "nightly.sh"):
        target = root / "libexec" / script
        target.parent.mkdir(exist_ok=True)
        shutil.copy(MACHINES / script, target)
    found = []
    for unit in UNITS:
        text = unit.read_text().replace("/opt/promptmill", str(root))
        name = root / unit.name.replace("@", "@head")
        (root / unit.name).write_text(text)
        found.append(str(name))
        name.write_text(text)
    return found


@pytest.mark.skipif(SYSTEMD is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(SYSTEMD), "verify", "--man=no", "--recursive-errors=no", *installed(tmp_path)],
        capture_output=True, text=True, check=False, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "promptmill" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@pytest.mark.skipif(SYSTEMD is None, reason="needs systemd-analyze")
def test_the_services_are_shut_in(tmp_path: Path) -> None:
    for unit in installed(tmp_path):
        if unit.endswith(".service"):
            done = subprocess.run(
                [str(SYSTEMD), "security", "--offline=true", "--threshold=45", "--no-pager", unit],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout[-300:]


def test_units_name_scripts_that_are_there_and_a_mistake_is_not_tried_again() -> None:
    assert len(UNITS) == 3
    for unit in UNITS:
        text = unit.read_text()
        for script in re.findall(r"^ExecStart=/opt/promptmill/libexec/(\S+)", text, re.MULTILINE):
            assert os.access(MACHINES / script, os.X_OK)
        if unit.suffix == ".service":
            assert "RestartPreventExitStatus=2" in text
            assert "NoNewPrivileges=yes" in text
            assert "User=promptmill" in text


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "says"),
    [
        (["head"], {}, 1, "RAY_HEAD: the address of the head machine"),
        (["head"], {"RAY_HEAD": "10.0.0.1"}, 1, "RAY_AUTH_TOKEN_PATH"),
        (["head"], {"RAY_HEAD": "10.0.0.1", "RAY_AUTH_TOKEN_PATH": "/nowhere"}, 2, "is empty or not there"),
        (["haed"], {"RAY_HEAD": "10.0.0.1", "RAY_AUTH_TOKEN_PATH": __file__}, 2, "'haed' is neither head nor worker"),
    ],
)
def test_a_node_that_is_told_too_little_says_what_is_missing(
    arguments: list[str], environment: dict[str, str], status: int, says: str
) -> None:
    done = subprocess.run(
        [MACHINES / "ray-node.sh", *arguments],
        env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    assert says in done.stderr


def open_ports() -> str:
    """The ports of the NetworkPolicy `ray`, as a packet filter writes them."""
    (policy,) = [found for found in of_kind("cpu", "NetworkPolicy") if found["metadata"]["name"] == "ray"]
    (rule,) = policy["spec"]["ingress"]
    return ", ".join(f"{port['port']}-{port.get('endPort', port['port'])}" for port in rule["ports"])


def tiny_run(tmp_path: Path) -> list[str]:
    """Arguments of a run that renders 8 prompts with a tiny GAN, and expands nothing."""
    table = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": [f"a red heart number {i}" for i in range(8)]}), table)
    gan = models.save_gan(tmp_path / "gan")
    return [f"prompts.uri={table}", "expand=null", f"generate.model={gan}", "shards.rows=4", "generate.actors.cpus=1"]


@pytest.mark.campaign
@as_root
@pytest.mark.skipif(not shutil.which("nft"), reason="needs nft")
def test_the_night_on_two_machines_with_a_firewall_of_the_network_policys_ports_between_them(tmp_path: Path) -> None:
    scratch = Path(
        subprocess.run(["mktemp", "-d", "/tmp/pm-XXXX"], check=True, capture_output=True, text=True).stdout[:-1]
    )
    output = tmp_path / "out"
    config = OmegaConf.from_dotlist([*tiny_run(tmp_path), f"output.uri={output}/{{date}}", "nightly.incremental=true"])
    OmegaConf.save(config, tmp_path / "nightly.yaml")
    command = [str(MACHINES / "nightly.sh"), "2026-11-25"]
    try:
        done = subprocess.run(
            [*OWN_NAMESPACES, str(REPOSITORY / "tests/infra/two_machines.sh"), str(BIN), str(scratch), *command],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OPEN_PORTS": open_ports(),
                 "NIGHTLY_CONFIG": str(tmp_path / "nightly.yaml")},
            capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "8 = 8 committed + 0 rejected" in done.stdout
    assert (output / "2026-11-25/_run/shards/000001.json").exists()
    assert json.loads((output / "latest.json").read_text())["date"] == "2026-11-25"


# --- Slurm ---

SRUN = """#!/usr/bin/env bash
# Slurm's part on one node: the options off, the command run, as the one task.
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""


@pytest.mark.campaign
@as_root
@pytest.mark.parametrize(
    ("overrides", "status", "says"), [([], 0, "8 = 8 committed"), (["shards.rwos=4"], 2, "shards.rows")]
)
def test_the_slurm_script_runs_and_its_status_is_the_runs(
    tmp_path: Path, overrides: list[str], status: int, says: str
) -> None:
    slurm = tmp_path / "slurm"
    slurm.mkdir()
    (slurm / "srun").write_text(SRUN)
    (slurm / "scontrol").write_text("#!/bin/sh\necho 127.0.0.1\n")
    for command in ("srun", "scontrol"):
        (slurm / command).chmod(0o755)
    config = tmp_path / "run.yaml"
    config.write_text(f"output: {{uri: {tmp_path / 'out'}}}\n")
    done = subprocess.run(
        [*OWN_NAMESPACES, "sh", "-c", 'mount -t tmpfs tmpfs /tmp/ray 2> /dev/null; ip link set lo up; exec "$@"', "sh",
         str(SLURM / "promptmill.sbatch"), str(config), *tiny_run(tmp_path), *overrides],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
        env={"PATH": f"{slurm}:{os.environ['PATH']}", "HOME": str(tmp_path), "PROMPTMILL_BIN": str(BIN),
             "PYTHONPATH": str(REPOSITORY), "SLURM_JOB_ID": "77", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n1"},
    )  # fmt: skip
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-2000:]
    assert says in done.stdout + done.stderr


def test_the_slurm_script_does_not_call_it_a_success_when_ray_did_not_start(tmp_path: Path) -> None:
    for command, text in (("srun", "#!/bin/sh\nexit 0\n"), ("scontrol", "#!/bin/sh\necho n1\n")):
        (tmp_path / command).write_text(text)
        (tmp_path / command).chmod(0o755)
    done = subprocess.run(
        [SLURM / "promptmill.sbatch", "run.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "PROMPTMILL_BIN": str(tmp_path), "SLURM_JOB_ID": "77",
             "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n[1-2]"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "Ray did not come up on all 2 nodes" in done.stderr
