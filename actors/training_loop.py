"""The loop that all training shares: phases of steps, rates, checkpoints, logs, and when to stop.

Every random number of a step comes from (seed, phase, step) or (seed, sample), so a run resumed at a checkpoint goes on
bit for bit as the undisturbed one on the same machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from actors.distributed import mean_of_workers
from actors.seeds import derive_seed
from actors.training_batch import TrainingBatch
from actors.training_state import Position, read_modules, read_optimisers

Values = dict[str, float]


@dataclass(frozen=True)
class PhasePlan:
    """``steps`` global steps of ``batch`` samples; rates rise over ``warmup`` steps, then fall by a cosine."""

    name: str
    steps: int
    batch: int
    warmup: int = 100
    final: float = 0.01

    def rate(self, step: int) -> float:
        """What the optimisers' rates are multiplied with."""
        rising = min(1.0, (step + 1) / max(1, self.warmup))
        falling = 0.5 * (1 + math.cos(math.pi * step / max(1, self.steps)))
        return rising * (falling + self.final)


class Trainee(Protocol):
    """What is trained."""

    phases: Sequence[PhasePlan]

    def modules(self) -> Mapping[str, nn.Module]:
        """All that a checkpoint holds, by name."""
        ...

    def begin(self, phase: str) -> Mapping[str, torch.optim.Optimizer]:
        """Prepares a phase, from its first step or in the middle of it, and returns its optimisers."""
        ...

    def step(self, phase: str, number: int, batch: TrainingBatch) -> Mapping[str, Tensor]:
        """Step ``number`` of a phase, from 0; returns scalars to log. Names and shapes are the same on all workers."""
        ...

    def collapsed(self, phase: str, values: Mapping[str, float]) -> str | None:
        """Asked whenever values are logged: why going on is of no use, or None. The values are the workers' mean."""
        ...


@dataclass(frozen=True)
class Hooks:
    """What the loop asks of the world around it; all workers call all of them.

    Attributes:
        batches: (phase, first step) -> the worker's batches from there to the end of the phase.
        log: (phase, step, values) every ``log_every`` steps.
        save: (position, optimisers, values): keeps a checkpoint.
        preempted: whether the machine has been given notice; asked every ``log_every`` steps.
        watch: (phase, step): sample sheets and metrics, every ``watch_every`` steps and at a phase's end; its values
            are logged, and ``score`` among them says which checkpoint is best.
    """

    batches: Callable[[PhasePlan, int], Iterator[TrainingBatch]]
    log: Callable[[PhasePlan, int, Values], None]
    save: Callable[[Position, Mapping[str, torch.optim.Optimizer], Values], None]
    preempted: Callable[[], bool]
    watch: Callable[[PhasePlan, int], Values]
    log_every: int = 20
    save_every: int = 200
    watch_every: int = 500


def train(
    trainee: Trainee, hooks: Hooks, *, seed: int, device: torch.device, state: tuple[Path, Position] | None = None
) -> str | None:
    """Trains all phases, or what a checkpoint leaves of them.

    Args:
        trainee: what is trained.
        hooks: the world around.
        seed: of the run.
        device: where batches go.
        state: files of a checkpoint and its position, to resume from.

    Returns:
        None when all is done; else one sentence why it stopped. The last checkpoint is then good: nothing is saved that
        was not found finite.
    """
    names = [phase.name for phase in trainee.phases]
    at = names.index(state[1].phase) if state else 0
    for number, phase in enumerate(trainee.phases):
        if number < at or phase.steps == 0:
            continue
        resumed = state is not None and number == at
        if state is not None and resumed:
            read_modules(state[0], trainee.modules())
        optimisers = trainee.begin(phase.name)
        for optimiser in optimisers.values():
            for group in optimiser.param_groups:
                group.setdefault("initial_lr", group["lr"])
        if state is not None and resumed:
            read_optimisers(state[0], optimisers)
        first = state[1].step if state is not None and resumed else 0
        reason = _phase(trainee, hooks, phase, first, optimisers, seed, device)
        if reason is not None:
            return reason
    return None


def _phase(
    trainee: Trainee,
    hooks: Hooks,
    phase: PhasePlan,
    first: int,
    optimisers: Mapping[str, torch.optim.Optimizer],
    seed: int,
    device: torch.device,
) -> str | None:
    score: Values = {}
    for step, batch in enumerate(hooks.batches(phase, first), first):
        for optimiser in optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * phase.rate(step)
        torch.manual_seed(derive_seed(seed, phase.name, step))
        values = trainee.step(phase.name, step, batch.to(device))
        done, last = step + 1, step + 1 == phase.steps
        saving = last or done % hooks.save_every == 0
        logging = last or done % hooks.log_every == 0
        notice = logging and hooks.preempted()
        if not (saving or logging):
            continue
        # Asked here alone: reading a number makes a GPU wait.
        means = mean_of_workers(torch.stack([value.detach().float() for value in values.values()]))
        numbers = dict(zip(values, means.tolist(), strict=True))
        if not all(math.isfinite(number) for number in numbers.values()):
            broken = ", ".join(name for name, number in numbers.items() if not math.isfinite(number))
            return f"training diverged in phase {phase.name} at step {done} ({broken} is not finite)"
        reason = trainee.collapsed(phase.name, numbers) if logging else None
        if reason is not None:
            return f"training collapsed in phase {phase.name} at step {done}: {reason}"
        if last or done % hooks.watch_every == 0:
            score = hooks.watch(phase, done)
            numbers |= score
        hooks.log(phase, done, numbers)
        if saving or notice:
            hooks.save(Position(phase.name, done), optimisers, score)
    return None
