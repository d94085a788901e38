"""What would run: ``python -m jobs.plan CONFIG.yaml [section.key=value ...]``; starts no actor and writes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.printing import print_rows
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config
from pipeline.run_date import dated, run_date


def run(config_path: Path | None, overrides: list[str], *, calibrate: bool, date: str | None = None) -> None:
    """Prints shards, rows, images, what is committed, and an estimate."""
    config = load_config(SynthesizeConfig, config_path, overrides)
    config = dated(config, None if date is None else run_date(date))
    from pipeline import estimate
    from pipeline.commit import committed_shards
    from pipeline.synthesize import open_store, settle
    from pipeline.timings import read_rates

    store = open_store(config)
    settled, recipes = settle(config, store)
    plan = settled.plan
    done = {shard for shard in committed_shards(store) if shard < plan.shards}
    rows_done = sum(plan.shard(shard).rows for shard in done)
    rates = estimate.calibrate(config, settled, recipes) if calibrate else read_rates(store)
    images = estimate.count_images(plan, config)
    ruled = rates is None
    rates = rates or estimate.by_rule(config, plan.table.rows, images)
    rows = [
        ("table", f"{plan.table.rows} rows in {len(plan.table.files)} file(s)"),
        (
            "shards",
            f"{plan.shards} of {plan.shard_rows} rows; {len(done)} committed, {plan.shards - len(done)} left",
        ),
        ("images", f"{images} asked for in all"),
        ("output", f"{store.public()} ({config.output.format}, {config.output.image.encoding})"),
        ("fingerprint", settled.fingerprint[:16] + ("" if settled.stored else " (new output)")),
    ]
    if rates is None:
        rows.append(("estimate", "none yet: no shard of this output is timed; --calibrate measures a few rows"))
    else:
        left = estimate.estimate(rates, plan.table.rows - rows_done, config)
        source = f"from {left.measured_rows} rows of {'a calibration' if calibrate else 'earlier shards'}"
        if ruled:
            source = "by rule, right within a factor of two: --calibrate measures"
        work = left.bill
        price = "" if work.cost is None else f", {work.cost:.2f} at cluster.price_*"
        rows.append(
            (
                "estimate",
                f"{work.hours:.2f} h for {left.rows_left} rows at the smallest pools: {work.cpu_hours:.2f} CPU hours, "
                f"{work.gpu_hours:.2f} GPU hours{price} (expand {left.expand_hours:.2f} h, render "
                f"{left.generate_hours:.2f} h of one actor; {source})",
            )
        )
    print_rows(rows)


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["plan", *sys.argv[1:]]))
