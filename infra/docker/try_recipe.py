"""Executes a Dockerfile's stages in clean roots, where no container runtime is to be had.

    debootstrap --variant=minbase bookworm /var/tmp/bookworm
    sudo python infra/docker/try_recipe.py --base /var/tmp/bookworm --work /var/tmp/try

The FROM, ARG, ENV, COPY, RUN, WORKDIR and USER lines are read from the Dockerfile itself, so what is tried is the
recipe and no copy of it. A stage is a directory; RUN is a chroot with an empty environment; COPY takes what git tracks.
At the end the target's command runs as its user on a read-only root without a network: what a restricted pod gives it.
Everything happens in mount and process namespaces of its own, and no mount outlives it. Needs root.

What it cannot show: layers, labels, and the base image's own content (debootstrap's minbase is its nearest kin).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "infra/docker/Dockerfile"
SMOKE = (
    "cd / && python -m jobs.synthesize /opt/promptmill/share/examples/demo.yaml"
    " prompts.uri=/opt/promptmill/share/examples/demo.parquet prompts.limit=4 output.uri=/tmp/out"
)


@dataclass
class Stage:
    """One FROM and what follows it."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Root:
    """A stage that was executed: its directory, and what its environment, arguments, shell and user have become."""

    path: Path
    environment: dict[str, str]
    arguments: dict[str, str] = field(default_factory=dict)
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    directory: str = "/"
    user: str = "root"

    def run(self, command: str, *, prefix: tuple[str, ...] = ()) -> None:
        """Runs a shell command in the root, with nothing of this process's environment."""
        variables = [f"{name}={value}" for name, value in {**self.arguments, **self.environment}.items()]
        home = [] if "HOME" in self.environment else ["HOME=/root"]
        words = ["chroot", f"--userspec={self.user}", str(self.path), "/usr/bin/env", "-i", *home, *variables]
        subprocess.run([*prefix, *words, *self.shell, f"cd {shlex.quote(self.directory)} && {command}"], check=True)


def stages(dockerfile: Path) -> tuple[dict[str, str], dict[str, Stage]]:
    """The ARGs before the first FROM with their defaults, and the stages by name."""
    # fileobj, or the parser looks for a file that is called Dockerfile in a directory.
    with dockerfile.open("rb") as stream:
        structure = DockerfileParser(fileobj=stream).structure
    arguments: dict[str, str] = {}
    found: dict[str, Stage] = {}
    current: Stage | None = None
    for entry in structure:
        instruction, value = entry["instruction"], entry["value"]
        if instruction == "FROM":
            base, _, name = value.partition(" AS ")
            current = found[name.strip()] = Stage(base.strip())
        elif instruction == "ARG" and current is None:
            name, _, default = value.partition("=")
            arguments[name] = default
        elif instruction != "COMMENT" and current is not None:
            current.steps.append((instruction, value))
    return arguments, found


def filled(text: str, values: dict[str, str]) -> str:
    """The text with ${NAME} and $NAME replaced, as the builder does outside of RUN."""
    return re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda match: values.get(match[1] or match[2], ""), text)


class Builder:
    """Executes stages below one directory, each once."""

    def __init__(self, base: Path, work: Path, given: dict[str, str], binds: list[str], outside: dict[str, str]):
        self.globals, self.stages = stages(DOCKERFILE)
        self.globals.update(given)
        self.base, self.work, self.given, self.binds, self.outside = base, work, given, binds, outside
        self.done: dict[str, Root] = {}

    def stage(self, name: str) -> Root:
        """The root of a stage, executed if it was not yet."""
        if name in self.done:
            return self.done[name]
        stage = self.stages[name]
        base = filled(stage.base, self.globals)
        path = self.work / name
        print(f"== {name} (from {base})", flush=True)
        if base in self.stages:
            below = self.stage(base)
            root = Root(path, dict(below.environment), dict(below.arguments), below.shell, below.directory, below.user)
            source = below.path
        else:
            root, source = (
                Root(path, {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}),
                self.base,
            )
        subprocess.run(["cp", "-a", "--reflink=auto", "--one-file-system", str(source), str(path)], check=True)
        mounted = self.furnish(path)
        for instruction, value in stage.steps:
            self.step(root, instruction, value)
        for place in reversed(mounted):
            subprocess.run(["umount", "--recursive", str(place)], check=True)
        self.done[name] = root
        return root

    def furnish(self, path: Path) -> list[Path]:
        """Mounts what a RUN step is given beside the image (/proc, /dev, names, the site's mirrors); says where."""
        mounted = [path / "proc", path / "dev"]
        subprocess.run(["mount", "-t", "proc", "proc", str(path / "proc")], check=True)
        subprocess.run(["mount", "--rbind", "/dev", str(path / "dev")], check=True)
        for bind in ["/etc/resolv.conf", *self.binds]:
            outside, _, target = bind.partition(":")
            inside = path / (target or outside).lstrip("/")
            if Path(outside).is_dir():
                inside.mkdir(parents=True, exist_ok=True)
            else:
                inside.parent.mkdir(parents=True, exist_ok=True)
                inside.unlink(missing_ok=True)
                inside.touch()
            subprocess.run(["mount", "--bind", os.path.realpath(outside), str(inside)], check=True)
            mounted.append(inside)
        return mounted

    def step(self, root: Root, instruction: str, value: str) -> None:
        """One line of a stage."""
        values = {**root.arguments, **root.environment}
        if instruction == "ARG":
            name, _, default = value.partition("=")
            root.arguments[name] = self.given.get(name, self.globals.get(name, filled(default, values)))
        elif instruction == "ENV":
            for word in shlex.split(filled(value, values)):
                name, _, setting = word.partition("=")
                root.environment[name] = setting
        elif instruction == "SHELL":
            root.shell = [str(word) for word in json.loads(value)]
        elif instruction == "WORKDIR":
            root.directory = filled(value, values)
            (root.path / root.directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif instruction == "USER":
            root.user = filled(value, values)
        elif instruction == "COPY":
            self.copy(root, shlex.split(filled(value, values)))
        elif instruction == "RUN":
            print(f"-- RUN {value}", flush=True)
            before = root.environment
            root.environment = {**self.outside, **before}
            root.run(value)
            root.environment = before

    def copy(self, root: Root, words: list[str]) -> None:
        """COPY from the working tree (what git tracks) or from another stage."""
        options = [word for word in words if word.startswith("--")]
        *sources, target = [word for word in words if not word.startswith("--")]
        into = root.path / str(Path(root.directory) / target).lstrip("/")
        stage = next((option.partition("=")[2] for option in options if option.startswith("--from=")), None)
        print(f"-- COPY {' '.join(words)}", flush=True)
        for source in sources:
            if stage is not None:
                shutil.copytree(self.stage(stage).path / source.lstrip("/"), into, symlinks=True, dirs_exist_ok=True)
                continue
            tracked = subprocess.run(
                ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--", source],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for name in filter(None, tracked.split("\0")):
                inside = Path(name).name if name == source else os.path.relpath(name, source)
                (into / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, into / inside)


def smoke(root: Root, command: str) -> None:
    """The command as a pod runs it: the image's user, a read-only root, three writable places; no network."""
    subprocess.run(["mount", "--bind", str(root.path), str(root.path)], check=True)
    subprocess.run(["mount", "--rbind", "/dev", str(root.path / "dev")], check=True)
    for place in ("tmp", "home/promptmill", "dev/shm"):
        options = "mode=1777,size=2g"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(root.path / place)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(root.path)], check=True)
    writable = "for place in /opt/promptmill /etc /var/tmp /; do touch $place/x 2> /dev/null && exit 1; done"
    refused = f"test $(id -u) = 10001 && ({writable}; true)"
    print(f"== as uid {root.user}, read-only root, no network: {command}", flush=True)
    root.arguments = {}
    # /proc must be the new process namespace's own: Ray looks its processes up there.
    alone = ("unshare", "--net", "--pid", "--fork", "--kill-child", f"--mount-proc={root.path / 'proc'}")
    up = (*alone, "sh", "-c", 'ip link set lo up; exec "$@"', "sh")
    root.run(f"{refused} && {command}", prefix=up)


def main() -> None:
    """Reads the arguments and goes into namespaces of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="directory that stands for the base image")
    parser.add_argument("--work", type=Path, required=True, help="directory for the stages' roots; must not exist")
    parser.add_argument(
        "--target", action="append", default=[], help="stage, several if given again; the last is smoked"
    )
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--bind", action="append", default=[], help="file or directory of this machine that RUN may read"
    )
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="variable that RUN is given")
    parser.add_argument("--smoke", default=SMOKE, help="what the image runs in the end; empty: nothing")
    arguments = parser.parse_args()
    if os.environ.get("PROMPTMILL_TRY_RECIPE") != "inside":
        inside = {**os.environ, "PROMPTMILL_TRY_RECIPE": "inside"}
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, *sys.argv]
        raise SystemExit(subprocess.run(command, env=inside, check=False).returncode)
    arguments.work.mkdir(parents=True)

    def pairs(words: list[str]) -> dict[str, str]:
        return dict(word.split("=", 1) for word in words)

    given = {"BASE_DIGEST": "none", **pairs(arguments.build_arg)}
    builder = Builder(arguments.base, arguments.work, given, arguments.bind, pairs(arguments.env))
    roots = [builder.stage(name) for name in arguments.target or ["job"]]
    if arguments.smoke:
        smoke(roots[-1], arguments.smoke)


if __name__ == "__main__":
    main()
