"""The tokenizer of the image-text encoder, trained on a table's captions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# CJK ideographs stand alone: BPE would glue a measure word to its noun.
_IDEOGRAPH = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"


def train_tokenizer(captions: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer (Sennrich et al., 2016); lower case, ideographs on their own.

    Args:
        captions: what it is trained on, in a fixed order: the same captions make the same tokenizer.
        vocabulary: tokens at most.
    """
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
        captions,
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)])
    return core


def as_transformers(core: Tokenizer, max_tokens: int) -> PreTrainedTokenizerFast:
    """The tokenizer as `transformers` has it; ``max_tokens`` of a text, for those who ask it to truncate."""
    # Not at the top: the driver of a training, which needs no model, would wait for it.
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=max_tokens
    )
