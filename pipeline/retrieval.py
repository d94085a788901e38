"""What is measured while the image-text encoder is trained: whether pictures and captions find one another."""

from __future__ import annotations

import torch

from actors.batched import embed_captions, embed_pictures
from actors.gan_measures import r_precision
from actors.image_text import ImageText
from actors.training_loop import Values
from pipeline.watch_rows import WatchRows


@torch.inference_mode()
def retrieval(encoder: ImageText, shown: WatchRows, seed: int) -> Values:
    """R-precision (1 of 100), and how often a caption finds its picture first, or among the first five.

    A caption that is true of several pictures counts for each.
    """
    encoder.model.eval()
    pictures = embed_pictures(encoder, shown.pictures(encoder.model.config.vision_config.image_size))
    words = embed_captions(encoder, shown.captions)
    encoder.model.train()
    true = shown.true()
    order = (words @ pictures.T).argsort(dim=1, descending=True)
    hits = true.T.gather(1, order)
    right = r_precision(pictures, words, true, seed)
    first, five = (float(hits[:, :count].any(dim=1).float().mean()) for count in (1, 5))
    return {"r_precision": right, "recall_1": first, "recall_5": five, "score": right}
