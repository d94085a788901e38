"""Which models suit a cluster, a number of images and a budget: all that fit, with hours and cost, and one choice.

The choice is the image model with most parameters whose work the budget pays, and with it the language model with most
that takes no more of the GPUs than the images do: a rule of thumb, for more parameters of one family draw better, and
across families it is only a first guess.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.errors import UserError
from pipeline.catalogue import Gpu, ImageModel, LanguageModel, catalogue, gpu_named
from pipeline.cost import Prices
from pipeline.cost_model import USABLE, Bill, Fit, StageWork, bill, fit_image, fit_language


@dataclass(frozen=True)
class Pool:
    """GPUs of one kind: its name as the catalogue has it, how many there are, and what one costs an hour, if known."""

    name: str
    gpu: Gpu
    count: int
    price: float | None = None


@dataclass(frozen=True)
class Option:
    """A model on a pool. ``actors`` that the pool holds, and the bill of the whole work by it alone."""

    pool: Pool
    fit: Fit
    actors: int
    bill: Bill


@dataclass(frozen=True)
class Choice:
    """An image model and, unless rows are rendered as they are, a language model, sharing one pool."""

    image: Option
    language: Option | None
    image_actors: int
    language_actors: int
    gpus: tuple[float, float]
    bill: Bill


def pools(told: Sequence[str], prices: Mapping[str, float]) -> list[Pool]:
    """From ``L4:8`` and prices by name.

    Raises:
        UserError: an unknown GPU, no number, or a price of a GPU that is not there.
    """
    found = []
    for text in told:
        name, _, count = text.partition(":")
        known = _known(name)
        if not (count or "1").isdecimal() or int(count or "1") < 1:
            raise UserError(f"--gpu {text} is not of the form NAME:COUNT, e.g. L4:8")
        found.append(Pool(*known, int(count or "1")))
    priced = {_known(name)[0]: price for name, price in prices.items()}
    strange = sorted(priced.keys() - {pool.name for pool in found})
    if strange:
        raise UserError(f"--price names {strange[0]}, which is none of the GPUs ({', '.join(p.name for p in found)})")
    return [Pool(pool.name, pool.gpu, pool.count, priced.get(pool.name)) for pool in found]


def options(pool: Pool, images: int, kind: str) -> list[Option]:
    """The models of a kind (``image``, ``language``) that fit a pool, the largest first; one description an image."""
    models: Sequence[ImageModel | LanguageModel] = getattr(catalogue(), kind)
    found = []
    for model in reversed(models):
        fit = (
            fit_image(model, pool.gpu, pool.count)
            if isinstance(model, ImageModel)
            else fit_language(model, pool.gpu, pool.count)
        )
        if fit is not None:
            actors = pool.count // fit.gpus
            work = StageWork(images / fit.per_second / 3600, actors, 0, fit.gpus)
            found.append(Option(pool, fit, actors, bill([work], _prices(pool))))
    return found


def choose(found: Sequence[Pool], images: int, budget: float | None, *, expand: bool) -> Choice | None:
    """The best pair over all pools that ``budget`` pays (None: no limit); None where none does."""
    best: Choice | None = None
    for pool in found:
        texts: Sequence[Option | None] = options(pool, images, "language") if expand else [None]
        for image in options(pool, images, "image"):
            for text in texts:
                pair = _pair(pool, image, text)
                if pair is None or (budget is not None and (pair.bill.cost is None or pair.bill.cost > budget)):
                    continue
                if best is None or _rank(pair) > _rank(best):
                    best = pair
    return best


def config_of(choice: Choice) -> list[str]:
    """The choice as overrides of `promptmill synthesize`."""
    image = choice.image.fit
    assert isinstance(image.model, ImageModel)
    told = [
        "generate.backend=diffusers",
        f"generate.model=hf://{image.model.name}",
        *(f"generate.diffusers.{name}={_yaml(value)}" for name, value in image.model.settings.items()),
        *([f"generate.diffusers.quantize={image.quantize}"] if image.quantize else []),
        *([f"generate.diffusers.placement={image.placement}"] if image.placement != "device" else []),
        f"generate.actors={_actors(choice, choice.image_actors, choice.gpus[0])}",
    ]
    if choice.language is None:
        return [*told, "expand=null"]
    text = choice.language.fit
    return [
        *told,
        "expand.engine=vllm",
        f"expand.model=hf://{text.model.name}",
        f"expand.dtype={text.dtype}",
        *([f"expand.vllm.tensor_parallel={text.gpus}"] if text.gpus > 1 else []),
        *([f"expand.vllm.gpu_memory={USABLE / 2:g}"] if choice.gpus[1] < 1 else []),
        f"expand.actors={_actors(choice, choice.language_actors, choice.gpus[1])}",
    ]


def _pair(pool: Pool, image: Option, text: Option | None) -> Choice | None:
    """How a pool is shared so that both stages end together; None where it holds no actor of each."""
    if text is None:
        return Choice(image, None, image.actors, 0, (image.fit.gpus, 0), image.bill)
    work = [option.bill.gpu_hours for option in (image, text)]
    if pool.count < image.fit.gpus + text.fit.gpus:
        if pool.count > 1 or max(image.fit.gib, text.fit.gib) > pool.gpu.gib * USABLE / 2:
            return None
        # Both on the one GPU there is, in turns.
        stages = [StageWork(sum(work), 1, 0, 1)]
        return Choice(image, text, 1, 1, (0.5, 0.5), bill(stages, _prices(pool)))
    most = (pool.count - image.fit.gpus) // text.fit.gpus
    wanted = round(pool.count * work[1] / sum(work) / text.fit.gpus)
    texts = min(most, max(1, wanted))
    images = (pool.count - texts * text.fit.gpus) // image.fit.gpus
    stages = [
        StageWork(work[0] / image.fit.gpus, images, 0, image.fit.gpus),
        StageWork(work[1] / text.fit.gpus, texts, 0, text.fit.gpus),
    ]
    return Choice(image, text, images, texts, (image.fit.gpus, text.fit.gpus), bill(stages, _prices(pool)))


def _rank(choice: Choice) -> tuple[float, bool, float, float]:
    image, text = choice.image, choice.language
    modest = text is None or text.bill.gpu_hours <= image.bill.gpu_hours
    cost = choice.bill.cost if choice.bill.cost is not None else choice.bill.hours
    return image.fit.model.size, modest, text.fit.model.size if text else 0.0, -cost


@functools.cache
def _known(name: str) -> tuple[str, Gpu]:
    known = gpu_named(name)
    if known is None:
        raise UserError(f"no GPU is known as {name!r}: name one of {', '.join(catalogue().gpus)}")
    return known


def _prices(pool: Pool) -> Prices:
    return Prices(None, pool.price, None, None)


def _actors(choice: Choice, count: int, gpus: float) -> str:
    told = {"min": count, "max": count, "gpus": f"{gpus:g}"}
    name = choice.image.pool.name
    # Ray calls both kinds of A100 by one name: there a type would match no node.
    return _yaml(told if "-" in name else told | {"accelerator_type": name})


def _yaml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_yaml(inner)}" for name, inner in value.items()) + "}"
    return f"{value}"
