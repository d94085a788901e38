"""Real pictures of what a generator draws worst: ``promptmill hard-examples OUTPUT PICTURES HARD.parquet``."""

from __future__ import annotations

from pathlib import Path


def run(images: str, pictures: str, target: Path, encoder: str, split: str | None, share: float, others: float) -> None:
    """Writes the table, and prints how to train on it."""
    import pyarrow.parquet as pq

    from actors.image_text import load_image_text
    from actors.model_uri import resolve_model
    from pipeline.captioned import open_captioned
    from pipeline.evaluate_config import Images
    from pipeline.hard_examples import hard_examples, lowest_prompts

    prompts = lowest_prompts(Images(uri=images), share)
    table = hard_examples(
        prompts,
        open_captioned(pictures, split=split),
        load_image_text(resolve_model(encoder, allow_unsafe=None).path),
        others=others,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, target)
    named = sum(weight > others for weight in table["weight"].to_pylist())
    print(f"{target}: {table.num_rows} pictures, {named} of them named by {len(prompts)} hard prompts")
    print(
        f"train on it with: promptmill train-gan YOUR.yaml start=RUN data.uri={target} data.split=null output.uri=..."
    )
