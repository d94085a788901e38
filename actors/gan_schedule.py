"""How long and how hard the GAN is trained: one place for all numbers of the three phases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from actors.training_loop import PhasePlan

PHASES = ("autoencoder", "regression", "adversarial")


@dataclass(frozen=True)
class PhaseSettings:
    """``steps`` of ``batch`` pictures over all workers, at a peak ``rate``; no step leaves the phase out."""

    steps: int
    batch: int
    rate: float


@dataclass(frozen=True)
class GanSchedule:
    """All phases, and how a step is computed.

    Attributes:
        phases: settings by name.
        noises: noises tried for each caption; the nearest is taught.
        critic_rate: peak rate of D.
        gamma, gamma_last: weight of R1 and R2 at the beginning and at the end (half a cosine between, as R3GAN does).
        lazy: steps between two with penalties.
        match: weight of the pairs with wrong words.
        adversarial, reconstruction, similarity: weights in G's loss.
        free: share of the rows in the game whose noise is drawn as at rendering, not chosen; of those only D judges.
        ramp: steps over which the weight of the game rises from 0 in G's loss, so that D learns first.
        ema: decay of G's moving average.
        accumulate: micro-batches a step.
        mixed: forward passes in bfloat16.
        compile: G and the autoencoder through torch.compile.
        coder: there is an autoencoder, trained in this run or in the one that it starts from.
        warm_critic: D's lower layers begin as the autoencoder's.
    """

    phases: dict[str, PhaseSettings]
    noises: int = 4
    critic_rate: float = 4e-4
    gamma: float = 2.0
    gamma_last: float = 2.0
    lazy: int = 1
    match: float = 0.5
    adversarial: float = 1.0
    reconstruction: float = 0.0
    similarity: float = 0.0
    free: float = 0.0
    ramp: int = 0
    ema: float = 0.999
    accumulate: int = 1
    mixed: bool = False
    compile: bool = False
    coder: bool = False
    warm_critic: bool = False

    def phase(self, name: str) -> PhaseSettings:
        """The settings of a phase."""
        return self.phases[name]

    def plans(self) -> Sequence[PhasePlan]:
        """For `actors.training_loop`."""
        return [PhasePlan(name, self.phases[name].steps, self.phases[name].batch) for name in PHASES]

    @property
    def warm(self) -> bool:
        """Whether there are latents that the adversarial phase can choose its noise by."""
        return self.coder and self.reconstruction > 0

    def game(self, step: int) -> float:
        """What the weight of the game is multiplied with at a step of the adversarial phase."""
        return min(1.0, step / self.ramp) if self.ramp else 1.0

    def penalty(self, step: int) -> float:
        """Gamma at a step of the adversarial phase."""
        total = max(1, self.phases["adversarial"].steps)
        return self.gamma_last + (self.gamma - self.gamma_last) * (1 + math.cos(math.pi * step / total)) / 2
