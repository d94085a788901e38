"""One image of an output rendered again from its row, alone, outside any batch."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from actors.contracts import ImageJob
from actors.errors import UserError
from actors.generator import Generator
from actors.images import ImageEncoder
from actors.model_uri import resolve_model
from actors.render_settings import RenderSettings, build_backend
from pipeline.commit import committed_shards
from pipeline.config import SynthesizeConfig
from pipeline.id_notes import find_image
from pipeline.image_parts import diffusers_settings, reads_pictures
from pipeline.run_record import read_run
from pipeline.storage import Store


@dataclass(frozen=True)
class Rendered:
    """The image made again, and the one in the dataset: both encoded."""

    data: bytes
    stored: bytes

    @property
    def same(self) -> bool:
        """Whether they are equal byte for byte."""
        return self.data == self.stored

    @property
    def same_pixels(self) -> bool:
        """Whether they are equal pixel for pixel: more cannot be, of a signed image."""
        pictures = [Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) for data in (self.data, self.stored)]
        return pictures[0].size == pictures[1].size and pictures[0].tobytes() == pictures[1].tobytes()


def render_row(store: Store, image_id: str, model: str | None = None, *, allow_unsafe: bool = False) -> Rendered:
    """Renders an image again.

    Args:
        store: the output.
        image_id: as in the output's column ``id``.
        model: where the run's image model is now; None where it still is.
        allow_unsafe: whether that model may be a pickle or bring code; the run's own record does not count.

    Raises:
        UserError: no such output or id; the model is not the one that the run used.
    """
    record = read_run(store)
    config = SynthesizeConfig.model_validate({**record["identity"]["config"], "allow_unsafe_models": allow_unsafe})
    generate = config.generate
    row = find_image(store, config.output.format, sorted(committed_shards(store)), image_id)
    if row is None:
        raise UserError(f"output '{store.public()}' has no image with id '{image_id}'; ids are in the column 'id'")
    redacted = config.redact
    if redacted is not None and "description" in (*redacted.drop, *redacted.hash):
        raise UserError(f"the words of '{store.public()}' were redacted, so no image can be rendered from its row")
    uri = model or record["models"]["generate"]
    found = resolve_model(uri, allow_unsafe=config.unsafe_painter)
    if found.sha256 != record["identity"]["models"]["generate"]:
        raise UserError(
            f"the model at '{uri}' is not the one of this run (sha256 {found.sha256[:12]}, the run used "
            f"{record['identity']['models']['generate'][:12]}); name the right one with --model"
        )
    hashes = record["identity"]["models"]
    places = {
        "controlnet": record["models"].get("generate_controlnet"),
        "loras": [record["models"][name] for name in sorted(hashes) if name.startswith("generate_lora")],
    }
    generate = generate.model_copy(update={"diffusers": generate.diffusers.model_copy(update=places)})
    if reads_pictures(generate, found.path):
        raise UserError(
            f"image '{image_id}' was made from a picture of the prompt table, which the output does not hold"
        )
    options = diffusers_settings(generate, hashes)
    backend = build_backend(RenderSettings(generate.backend, uri, options, config.unsafe_painter, cpus=1, gpus=0))
    image = config.output.image
    job = ImageJob(
        image_id,
        row.values["description"],
        row.values.get("negative_prompt"),
        row.values["seed"],
        row.values["width"],
        row.values["height"],
    )
    again = Generator(backend, ImageEncoder(image.encoding, image.quality), generate.batch_rows, 1).render_one(job)
    return Rendered(again.data, row.image)
