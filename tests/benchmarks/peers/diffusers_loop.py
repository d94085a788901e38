"""The image half alone, as the guide of `diffusers` to batches has it; prompts are rendered as they are."""

import json
import sys
from pathlib import Path

import pandas as pd
import torch
from diffusers import DiffusionPipeline

task = json.loads(Path(sys.argv[1]).read_text())
output = Path(task["output"])
output.mkdir(exist_ok=True)
pipeline = DiffusionPipeline.from_pretrained(task["pipeline"], safety_checker=None)
pipeline.set_progress_bar_config(disable=True)
prompts = pd.read_parquet(task["prompts"])["prompt"].tolist()
for start in range(0, len(prompts), task["batch"]):
    part = prompts[start : start + task["batch"]]
    seeds = [torch.Generator().manual_seed(start + row) for row in range(len(part))]
    images = pipeline(
        part, num_inference_steps=task["steps"], width=task["side"], height=task["side"], generator=seeds
    ).images
    for row, image in enumerate(images):
        image.save(output / f"{start + row:06d}.png")
