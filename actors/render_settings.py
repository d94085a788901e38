"""What a generator actor is told, and the backend that comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from actors.contracts import Backend
from actors.device import use_resources
from actors.diffusers_settings import DiffusersSettings
from actors.model_uri import resolve_model


@dataclass(frozen=True)
class RenderSettings:
    """A backend by kind, its model by URI, and the actor's resources; picklable."""

    kind: Literal["gan", "diffusers"]
    model: str
    diffusers: DiffusersSettings
    allow_unsafe_models: bool | None
    cpus: float
    gpus: float
    sha256: str | None = None


def build_backend(settings: RenderSettings) -> Backend:
    """Loads the model on the actor's device. Raises `UserError` where the model cannot be loaded."""
    device = use_resources(settings.cpus, settings.gpus)
    model = resolve_model(settings.model, allow_unsafe=settings.allow_unsafe_models, expect=settings.sha256)
    if settings.kind == "diffusers":
        from actors.backend_diffusers import DiffusersBackend

        own = settings.diffusers
        parts = {
            name: resolve_model(
                uri,
                allow_unsafe=None if "lora" in name else settings.allow_unsafe_models,
                expect=own.hashes.get(name),
                adapter="lora" in name,
            ).path
            for name, uri in own.parts().items()
        }
        return DiffusersBackend(model.path, device, own, trusted=model.trusted, parts=parts)
    # Not at the top: the driver, which only hands settings on, need not wait for transformers' models to be imported.
    from actors.backend_gan import GanBackend

    return GanBackend(model.path, device)
