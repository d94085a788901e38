"""What a run costs at the prices that the config knows: tokens of an endpoint, and the cluster's hours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config import SynthesizeConfig


@dataclass(frozen=True)
class Prices:
    """Prices in one currency; None where the config has none."""

    cpu_hour: float | None
    gpu_hour: float | None
    read: float | None
    generated: float | None

    @property
    def known(self) -> bool:
        """Whether anything has a price."""
        return any(price is not None for price in (self.cpu_hour, self.gpu_hour, self.read, self.generated))

    def tokens(self, read: int, generated: int) -> float:
        """The price of an endpoint's tokens."""
        return (read * (self.read or 0) + generated * (self.generated or 0)) / 1e6

    def machines(self, resources: Mapping[str, float], seconds: float) -> float:
        """The price of all CPUs and GPUs that a cluster has, for a while."""
        hourly = resources.get("CPU", 0) * (self.cpu_hour or 0) + resources.get("GPU", 0) * (self.gpu_hour or 0)
        return hourly * seconds / 3600


def prices(config: SynthesizeConfig) -> Prices:
    """The config's prices; tokens have one with the engine ``openai`` alone."""
    endpoint = config.expand.openai if config.expand is not None and config.expand.engine == "openai" else None
    return Prices(
        cpu_hour=config.cluster.price_cpu_hour,
        gpu_hour=config.cluster.price_gpu_hour,
        read=endpoint.price_in if endpoint else None,
        generated=endpoint.price_out if endpoint else None,
    )
