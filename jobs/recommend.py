"""``promptmill models recommend``: which models suit a cluster's GPUs, a number of images, and a budget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from actors.errors import UserError
from pipeline.recommend import Choice, Option, Pool, choose, config_of, options, pools


def recommend(
    table: str | None,
    *,
    images: int | None,
    gpus: Sequence[str],
    prices: Sequence[str],
    budget: float | None,
    expand: bool,
    address: str | None,
    as_json: bool,
) -> None:
    """Prints what fits each kind of GPU, and one choice; starts no model.

    Raises:
        UserError: no number of images, no GPUs, an unknown one, a budget without prices, or nothing within the budget.
    """
    count = _images(table, images)
    found = pools(gpus or _of_cluster(address), dict(_price(text) for text in prices))
    if budget is not None and not any(pool.price is not None for pool in found):
        raise UserError("--budget needs the price of a GPU hour, e.g. --price L4=0.80")
    listed = {
        pool.name: {kind: options(pool, count, kind) for kind in ("image", *(["language"] if expand else []))}
        for pool in found
    }
    choice = choose(found, count, budget, expand=expand)
    if as_json:
        told = {
            name: {kind: [_plain(o) for o in ways] for kind, ways in kinds.items()} for name, kinds in listed.items()
        }
        print(
            json.dumps({"images": count, "fits": told, "choice": None if choice is None else _chosen(choice)}, indent=1)
        )
    else:
        for pool in found:
            _print_pool(pool, listed[pool.name], count)
        _print_choice(choice, count)
    if choice is None:
        bound = "" if budget is None else f" for {count} images within {budget:g}"
        raise UserError(f"no known pair of models fits these GPUs{bound}: more memory, fewer images, or --no-expand")


def _images(table: str | None, images: int | None) -> int:
    if images is None and table is None:
        raise UserError("say how many images: --images N, or the prompt table")
    if table is None:
        return images or 0
    from pipeline.config_stages import Prompts
    from pipeline.prompts import open_table

    rows = open_table(Prompts(uri=table)).rows
    return rows * (images or 1)


def _of_cluster(address: str | None) -> list[str]:
    """The GPUs of a running cluster, as ``--gpu`` takes them."""
    import os

    if not (address or os.environ.get("RAY_ADDRESS")):
        raise UserError("say which GPUs: --gpu L4:8, or a running cluster with --address or RAY_ADDRESS")
    from pipeline.cluster import cluster_gpus

    return [f"{name}:{count}" for name, count in cluster_gpus(address).items()]


def _price(text: str) -> tuple[str, float]:
    name, _, price = text.partition("=")
    try:
        return name, float(price)
    except ValueError as error:
        raise UserError(f"--price {text} is not of the form NAME=PRICE, e.g. L4=0.80") from error


def _print_pool(pool: Pool, kinds: dict[str, list[Option]], count: int) -> None:
    price = "" if pool.price is None else f", {pool.price:g} an hour each"
    print(f"{pool.count} x {pool.name} ({pool.gpu.gib:g} GiB{price}), {count} images by all of them:")
    for kind, ways in kinds.items():
        print(f"  {kind:<46}{'billion':>8} {'GiB':>5}  {'per GPU':<11}{'hours':>8}{'cost':>9}  how; licence")
        for way in ways:
            fit, cost = way.fit, "" if way.bill.cost is None else f"{way.bill.cost:.2f}"
            rate = f"~{float(f'{fit.per_second / fit.gpus:.1g}'):g}/s"
            how = ", ".join(
                [fit.dtype, *([fit.quantize] if fit.quantize else []), *([fit.placement] * (fit.placement != "device")),
                 *([f"{fit.gpus} GPUs"] if fit.gpus > 1 else [])]
            )  # fmt: skip
            print(
                f"  {fit.model.name:<46}{fit.model.size:>8.2f} {fit.gib:>5.1f}  {rate:<11}{way.bill.hours:>8.2f}"
                f"{cost:>9}  {how}; {fit.model.licence}"
            )
        if not ways:
            print("  none that is known fits")


def _print_choice(choice: Choice | None, count: int) -> None:
    if choice is None:
        return
    names = " with ".join(o.fit.model.name for o in (choice.image, choice.language) if o)
    cost = "" if choice.bill.cost is None else f", {choice.bill.cost:.2f} in all"
    print(f"choice   {names} on {choice.image.pool.count} x {choice.image.pool.name}: {choice.bill.hours:.2f} h{cost}")
    print("by rule of thumb, right within a factor of two: promptmill plan --calibrate measures. As a config:")
    print("  promptmill synthesize ... \\")
    print(" \\\n".join(f"    '{text}'" if " " in text else f"    {text}" for text in config_of(choice)))


def _plain(option: Option) -> dict[str, Any]:
    fit = option.fit
    told = {name: getattr(fit, name) for name in ("dtype", "quantize", "placement", "gpus")}
    return {
        "model": fit.model.name, "licence": fit.model.licence, "billion": round(fit.model.size, 3),
        "gib": round(fit.gib, 2), "per_second": float(f"{fit.per_second:.2g}"), **told, **asdict(option.bill),
    }  # fmt: skip


def _chosen(choice: Choice) -> dict[str, Any]:
    return {
        "image": choice.image.fit.model.name,
        "language": choice.language.fit.model.name if choice.language else None,
        "gpu": choice.image.pool.name,
        **asdict(choice.bill),
        "config": config_of(choice),
    }
