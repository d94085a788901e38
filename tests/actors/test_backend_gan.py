"""The backend `gan`: a picture is a function of its own job, and a bad model directory is refused in one line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

import promptmill
from actors.backend_gan import GanBackend
from actors.contracts import ImageJob
from actors.errors import RowError, UserError
from actors.gan_model import GanModel, load_gan
from actors.images import SomeRowsError
from actors.networks import GanConfig, GanGenerator
from tests import models

CPU = torch.device("cpu")
TEXTS = [
    "a red heart",
    "一只猫在沙滩上玩耍",
    "x",
    "a photo of a blue cat " * 40,
    "",
    "\x00 🙂 </s> é",
    "black cat",
    "black bird",
]


def job(number: int, *, text: str | None = None, size: tuple[int | None, int | None] = (None, None)) -> ImageJob:
    return ImageJob(f"id-{number}", text or TEXTS[number % len(TEXTS)], None, 1000 + number, *size)


def save_awake_gan(directory: Path, config: GanConfig, bias: float = 0.0) -> Path:
    """A GAN with random weights in every layer; those that start at zero would hide differences."""
    torch.manual_seed(3)
    words = models.tokenizer()
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words), hidden_size=config.text_dim, intermediate_size=2 * config.text_dim,
            num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=48,
            bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
        )
    )  # fmt: skip
    generator = GanGenerator(config)
    for name, parameter in generator.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter, a=0.5 if "stem" in name else 1.0)
    torch.nn.init.constant_(generator.decoder.layers[-2].bias, bias)
    GanModel(generator, encoder, words).save(directory, training={})
    return directory


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = GanConfig(text_dim=16, noise_dim=8, latent_channels=4, stem_width=24, stem_blocks=1, widths=(8, 8))
    return save_awake_gan(tmp_path_factory.mktemp("gan"), config)


@pytest.fixture(scope="module")
def backend(tiny: Path) -> GanBackend:
    return GanBackend(tiny, CPU)


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def test_markup_in_a_prompt_is_text_and_hides_nothing_behind_it(tiny: Path) -> None:
    model = load_gan(tiny)
    assert not torch.equal(model.embed(["a cat </s> a dog"]), model.embed(["a cat </s>"]))
    assert not torch.equal(model.embed(["a cat </s>"]), model.embed(["a cat"]))


def test_nothing_to_render_is_nothing(backend: GanBackend) -> None:
    assert backend.render([]) == []


def test_pictures_have_the_models_size_and_say_something(backend: GanBackend) -> None:
    assert backend.native_size == (32, 32)
    for picture in backend.render([job(0), job(1)]):
        assert picture.shape == (32, 32, 3)
        assert picture.dtype == np.uint8
        assert picture.std() > 5


@pytest.mark.parametrize("count", [2, 7, 8, 9, 32])
def test_picture_is_the_same_alone_and_in_any_batch(backend: GanBackend, count: int) -> None:
    jobs = [job(number) for number in range(count)]
    together = backend.render(jobs)
    backwards = backend.render(jobs[::-1])[::-1]
    for number, one in enumerate(jobs):
        (alone,) = backend.render([one])
        assert np.array_equal(alone, together[number]), number
        assert np.array_equal(alone, backwards[number]), number


def test_images_of_one_description_have_its_words_read_once(
    backend: GanBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, tokens = [], backend._model.tokens
    monkeypatch.setattr(backend._model, "tokens", lambda texts: read.extend(texts) or tokens(texts))
    backend.render([ImageJob(str(seed), f"a cat {seed // 4}", None, seed, None, None) for seed in range(8)])
    assert read == ["a cat 0", "a cat 1"]


def test_picture_of_the_shipped_sizes_is_the_same_alone_and_in_a_batch(tmp_path: Path) -> None:
    """Large layers take other kernels than tiny ones. Saturated pictures would hide the last bit."""
    backend = GanBackend(save_awake_gan(tmp_path, GanConfig()), CPU)
    jobs = [job(number) for number in range(11)]
    together = backend.render(jobs)
    assert np.mean([(picture > 0) & (picture < 255) for picture in together]) > 0.3
    for number in (0, 3, 7, 8, 10):
        (alone,) = backend.render([jobs[number]])
        assert np.array_equal(alone, together[number]), number


def test_same_job_same_picture_after_loading_again(tiny: Path, backend: GanBackend) -> None:
    assert np.array_equal(GanBackend(tiny, CPU).render([job(1)])[0], backend.render([job(1)])[0])


def test_seed_and_text_decide_the_picture_and_nothing_else_does(backend: GanBackend) -> None:
    one = job(0)
    base, seed, text, other = backend.render(
        [one, replace(one, seed=1), replace(one, text="a green tree"), replace(one, image_id="b", negative_text="ugly")]
    )
    assert not np.array_equal(base, seed)
    assert not np.array_equal(base, text)
    assert np.array_equal(base, other)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a photo of a cat", "a photo of a tree"),
        ("cat on", "cat on the beach"),
        ("一只猫", "一只猫玩"),
        ("a cat x", "a cat b"),
    ],
)
def test_words_after_the_rarest_one_are_heard(backend: GanBackend, first: str, second: str) -> None:
    """transformers pools an old CLIP (end token 2) at its highest token id: the rest of the sentence would be lost."""
    one, two = backend.render([job(0, text=first), job(0, text=second)])
    assert not np.array_equal(one, two)


def test_text_is_read_at_its_end_token(tiny: Path) -> None:
    model = load_gan(tiny)
    for text in TEXTS[:3]:
        encoded = model.tokenizer([text], return_tensors="pt")
        states = model.text_encoder(**encoded).last_hidden_state
        assert encoded.input_ids[0, -1] == model.tokenizer.eos_token_id
        assert torch.equal(model.embed([text])[0], states[0, -1]), text


def test_text_that_is_cut_off_keeps_its_beginning(backend: GanBackend) -> None:
    start = "a red heart " * 60
    one, two, other = backend.render([job(0, text=start + "x"), job(0, text=start + "tree"), job(0, text="x " + start)])
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("size", [(None, None), (32, 32), (32, None), (None, 32)])
def test_own_size_is_accepted(backend: GanBackend, size: tuple[int | None, int | None]) -> None:
    backend.check(job(0, size=size))


@pytest.mark.parametrize("size", [(64, 64), (32, 31), (31, None), (None, 33), (-32, -32), (0, 32), (10**9, 10**9)])
def test_other_sizes_are_refused_with_the_one_that_works(
    backend: GanBackend, size: tuple[int | None, int | None]
) -> None:
    with pytest.raises(RowError) as caught:
        backend.check(job(0, size=size, text="a secret prompt"))
    assert caught.value.reason == "bad_size"
    assert "32x32" in caught.value.detail
    assert "secret" not in caught.value.detail


def test_picture_that_is_not_finite_is_a_reject(tmp_path: Path) -> None:
    config = GanConfig(text_dim=8, noise_dim=4, latent_channels=4, stem_width=8, stem_blocks=1, widths=(8,))
    with pytest.raises(SomeRowsError) as caught:
        GanBackend(save_awake_gan(tmp_path, config, bias=float("nan")), CPU).render([job(0), job(1)])
    assert caught.value.reason == "not_finite"
    assert len(caught.value.results) == 2


def test_package_directory_with_one_model_stands_for_it(tiny: Path, tmp_path: Path, backend: GanBackend) -> None:
    shutil.copytree(tiny, tmp_path / "package" / "gan-emoji-64")
    assert np.array_equal(GanBackend(tmp_path / "package", CPU).render([job(0)])[0], backend.render([job(0)])[0])


def test_directory_with_two_models_asks_which(tiny: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        shutil.copytree(tiny, tmp_path / name)
    with pytest.raises(UserError, match=r"first, second.*name one"):
        load_gan(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "generator.safetensors", "text_encoder", "tokenizer.json"])
def test_model_that_lacks_a_part_is_refused_in_one_line(copy: Path, missing: str) -> None:
    part = copy / missing
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    with pytest.raises(UserError) as caught:
        load_gan(copy)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no GAN"):
        load_gan(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["generator.safetensors", "text_encoder/model.safetensors"])
def test_torn_weights_are_refused(copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_gan(copy)


@pytest.mark.parametrize("name", ["generator.safetensors", "text_encoder/model.safetensors"])
def test_pickles_are_never_read(copy: Path, name: str) -> None:
    weights = copy / name
    weights.unlink()
    torch.save({"x": torch.zeros(1)}, weights.with_suffix(".bin"))
    torch.save({"x": torch.zeros(1)}, weights.with_name("pytorch_model.bin"))
    with pytest.raises(UserError):
        load_gan(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "something else"}, "no promptmill-gan model"),
        ({"version": 99}, "format version 99"),
        ({"networks": {"widths": [8, 8], "layers": 3}}, "cannot be loaded"),
        ({"networks": {"widths": [8, 8], "text_dim": 17}}, "cannot be loaded"),
    ],
)
def test_config_that_does_not_fit_is_refused(copy: Path, change: dict[str, object], words: str) -> None:
    path = copy / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=words):
        load_gan(copy)


@pytest.fixture(scope="module")
def shipped() -> GanBackend:
    return GanBackend(Path(promptmill.__file__).parent, CPU)


def mean_colour(backend: GanBackend, text: str) -> np.ndarray:
    """Mean red, green and blue of what is not white, over eight pictures."""
    pixels = np.concatenate(backend.render([replace(job(seed), text=text) for seed in range(8)])).reshape(-1, 3)
    return pixels[pixels.min(axis=1) < 200].mean(axis=0)


@pytest.mark.parametrize(
    ("text", "channel"),
    [
        ("red heart", 0),
        ("blue heart", 2),
        ("green heart", 1),
        ("红心", 0),
        ("蓝心", 2),
        ("green tree", 1),
        ("a red apple", 0),
    ],
)
def test_shipped_model_paints_the_colour_that_the_words_name(shipped: GanBackend, text: str, channel: int) -> None:
    colour = mean_colour(shipped, text)
    assert colour.argmax() == channel, colour
    assert colour[channel] > np.delete(colour, channel).max() + 15, colour


def test_shipped_model_is_the_same_alone_and_in_a_batch(shipped: GanBackend) -> None:
    jobs = [job(number) for number in range(10)]
    together = shipped.render(jobs)
    for number in (0, 4, 9):
        assert np.array_equal(shipped.render([jobs[number]])[0], together[number]), number


def test_shipped_model_hears_each_word(shipped: GanBackend) -> None:
    black = [shipped.render([job(0, text=text)])[0] for text in ("black cat", "black bird", "black circle")]
    assert not any(np.array_equal(a, b) for a, b in zip(black, black[1:] + black[:1], strict=True))
