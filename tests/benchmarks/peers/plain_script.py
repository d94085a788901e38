"""The whole job as one script: `generate` on padded batches, a `diffusers` pipeline on batches, files and a table."""

import json
import sys
from pathlib import Path

import pandas as pd
import torch
from diffusers import DiffusionPipeline
from transformers import AutoModelForCausalLM, AutoTokenizer

task = json.loads(Path(sys.argv[1]).read_text())
output = Path(task["output"])
output.mkdir(exist_ok=True)
tokenizer = AutoTokenizer.from_pretrained(task["llm"], padding_side="left")
model = AutoModelForCausalLM.from_pretrained(task["llm"])
pipeline = DiffusionPipeline.from_pretrained(task["pipeline"], safety_checker=None)
pipeline.set_progress_bar_config(disable=True)
table = pd.read_parquet(task["prompts"])
rows = []
for start in range(0, len(table), task["batch"]):
    prompts = table["prompt"][start : start + task["batch"]].tolist()
    chats = [[*task["context"], {"role": "user", "content": prompt}] for prompt in prompts]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    made = model.generate(**inputs, max_new_tokens=task["tokens"], do_sample=False, pad_token_id=tokenizer.eos_token_id)
    texts = tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    seeds = [torch.Generator().manual_seed(start + row) for row in range(len(prompts))]
    images = pipeline(
        texts, num_inference_steps=task["steps"], width=task["side"], height=task["side"], generator=seeds
    ).images
    for row, (prompt, text, image) in enumerate(zip(prompts, texts, images, strict=True)):
        image.save(output / f"{start + row:06d}.png")
        rows.append({"file_name": f"{start + row:06d}.png", "prompt": prompt, "description": text})
pd.DataFrame(rows).to_csv(output / "metadata.csv", index=False)
