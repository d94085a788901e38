"""A captioned picture table in memory, as the GAN trainer wants it, and the tokenizer trained on its captions."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from actors.errors import UserError
from actors.gan_model import MAX_TOKENS

# CJK ideographs stand alone: BPE would glue a measure word to its noun.
_IDEOGRAPH = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"


class PictureSet:
    """An `actors.gan_trainer.Pictures` over the table that `jobs.prepare_emoji` writes.

    Args:
        path: the Parquet file.
        resolution: side in pixels; pictures of another size are resampled (Lanczos).
        originals: share of the samples that are not recoloured.

    Raises:
        UserError: no such table, or no Parquet.
    """

    def __init__(self, path: Path, resolution: int, originals: float = 0.65) -> None:
        try:
            rows = pq.read_table(path).to_pylist()
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(
                f"the training table '{path}' cannot be read ({type(error).__name__}); make it with jobs.prepare_emoji"
            ) from error
        rows = [row for row in rows if row["split"] != "held_out"]
        pictures = np.stack([_pixels(row["image"]["bytes"], resolution) for row in rows])
        self._pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        self._captions = [
            {lang: row[f"caption_{lang}"] or [row[f"label_{lang}"]] for lang in ("en", "zh")} for row in rows
        ]
        recoloured = torch.tensor([row["recoloured"] for row in rows])
        self._groups = [torch.nonzero(~recoloured).flatten(), torch.nonzero(recoloured).flatten()]
        self._originals = originals if len(self._groups[1]) else 1.0

    def __len__(self) -> int:
        return len(self._captions)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """See `actors.gan_trainer.Pictures`."""
        kept = torch.rand(count, generator=generator) < self._originals
        draws = torch.rand(count, generator=generator)
        first, second = (group[(draws * len(group)).long()] if len(group) else draws.long() for group in self._groups)
        return torch.where(kept, first, second)

    def images(self, indices: Tensor) -> Tensor:
        """See `actors.gan_trainer.Pictures`."""
        return self._pictures[indices].float() / 127.5 - 1

    def caption(self, index: int, rng: random.Random) -> str:
        """See `actors.gan_trainer.Pictures`."""
        captions: list[str] = self._captions[index]["en" if rng.random() < 0.6 else "zh"]
        return rng.choice(captions)


def train_tokenizer(pictures: PictureSet, vocabulary: int, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a dozen captions of each picture; lower case, ideographs on their own."""
    rng = random.Random(seed)
    corpus = [pictures.caption(index, rng) for index in range(len(pictures)) for _ in range(12)]
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_IDEOGRAPH), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    core.decoder = decoders.ByteLevel()
    # The end must not be token 2: transformers takes a CLIP config with ``eos_token_id`` 2 for one of the first and
    # pools the state of the *highest* id instead, deaf to whatever follows that word.
    special = ["<pad>", "<s>", "<mask>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=MAX_TOKENS
    )


def _pixels(data: bytes, resolution: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    if picture.size != (resolution, resolution):
        picture = picture.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(picture)
