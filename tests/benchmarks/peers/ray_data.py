"""The whole job in Ray Data as its guide to batch inference has it: two classes, `map_batches`, `write_parquet`."""

import io
import json
import sys
from pathlib import Path

import ray
import torch
from diffusers import DiffusionPipeline
from transformers import AutoModelForCausalLM, AutoTokenizer

task = json.loads(Path(sys.argv[1]).read_text())


class Describe:
    def __init__(self):
        self.tokenizer = AutoTokenizer.from_pretrained(task["llm"], padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(task["llm"])

    def __call__(self, batch):
        chats = [[*task["context"], {"role": "user", "content": prompt}] for prompt in batch["prompt"].tolist()]
        inputs = self.tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        made = self.model.generate(
            **inputs, max_new_tokens=task["tokens"], do_sample=False, pad_token_id=self.tokenizer.eos_token_id
        )
        batch["description"] = self.tokenizer.batch_decode(
            made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return batch


class Render:
    def __init__(self):
        self.pipeline = DiffusionPipeline.from_pretrained(task["pipeline"], safety_checker=None)
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, batch):
        images = self.pipeline(
            list(batch["description"]), num_inference_steps=task["steps"], width=task["side"], height=task["side"],
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip
        batch["image"] = []
        for image in images:
            file = io.BytesIO()
            image.save(file, "PNG")
            batch["image"].append(file.getvalue())
        return batch


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
dataset = ray.data.read_parquet(task["prompts"]).repartition(task["rows"] // task["batch"])
dataset = dataset.map_batches(Describe, batch_size=task["batch"], concurrency=1, num_cpus=0.5)
dataset = dataset.map_batches(Render, batch_size=task["batch"], concurrency=1, num_cpus=0.5)
dataset.write_parquet(task["output"])
