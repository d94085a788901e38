"""What the command line loads before it knows what is asked: torch and Ray take seconds, and words need neither."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from jobs.cli import main
main({words!r})
print("loaded:", *sorted({{"torch", "ray", "transformers", "pyarrow"}} & set(sys.modules)), file=sys.stderr)
"""


COMMANDS = ("synthesize", "nightly", "refine", "evaluate", "train-encoder", "train-gan")


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_loads_neither_torch_nor_ray(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(words=words)], capture_output=True, text=True, check=True
    )
    assert words[0].removeprefix("--") in done.stdout
    assert done.stderr.splitlines()[-1].split()[1:] == []


MODELS = {"torch", "transformers"}


@pytest.mark.parametrize(
    ("module", "not_loaded"),
    [
        ("pipeline.synthesize", MODELS), ("pipeline.verify", MODELS), ("pipeline.sample_reader", MODELS),
        # Ray Train's own trainer brings torch.
        ("pipeline.train_gan", {"transformers"}), ("pipeline.train_encoder", {"transformers"}),
    ],
)  # fmt: skip
def test_what_runs_no_model_loads_no_models_library(module: str, not_loaded: set[str]) -> None:
    """Drivers, Ray Train's controller, and actors that read training samples: seconds and memory of each process."""
    program = f"import sys, {module}; print(*sorted({not_loaded} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
