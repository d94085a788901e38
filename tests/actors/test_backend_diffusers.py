"""The diffusers backend on real pipelines: tiny Stable Diffusion, Stable Diffusion 3 and Flux with random weights."""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from actors.backend_diffusers import DiffusersBackend
from actors.contracts import ImageJob
from actors.diffusers_settings import DiffusersSettings
from actors.errors import RowError, UserError
from actors.generator import Generator
from actors.images import ImageEncoder, SomeRowsError
from tests.pipelines import BUILDERS

pytest.importorskip("diffusers")

CPU = torch.device("cpu")
FAST = DiffusersSettings(steps=2)
LONG_TEXT = "zebra quartz " * 60


def job(seed: int, text: str = "a cat", *, negative: str | None = None, size: int | None = 32) -> ImageJob:
    return ImageJob(f"id-{seed}", text, negative, seed, size, size)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    torch.manual_seed(0)
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def backends(folders) -> dict[str, DiffusersBackend]:
    return {name: DiffusersBackend(folder, CPU, FAST) for name, folder in folders.items()}


@pytest.fixture
def sd(folders, tmp_path) -> Path:
    """A Stable Diffusion directory to spoil."""
    return shutil.copytree(folders["sd"], tmp_path / "sd")


@pytest.mark.parametrize("name", BUILDERS)
def test_seed_and_text_decide_the_image_and_nothing_else_does(backends, name):
    backend = backends[name]
    first, other_seed, other_text, again = backend.render([job(1), job(2), job(1, "a dog"), job(1)])
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    assert first.std() > 1
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other_seed)
    assert not np.array_equal(first, other_text)
    torch.manual_seed(99)
    assert np.array_equal(backend.render([job(1)])[0], first)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("images_per_call", [1, 4])
def test_an_image_alone_is_bitwise_the_image_of_its_micro_batch(folders, name, dtype, images_per_call):
    backend = DiffusersBackend(folders[name], CPU, replace(FAST, dtype=dtype, images_per_call=images_per_call))
    jobs = [job(seed, f"a cat {seed}" + " and more" * seed, negative="dog") for seed in range(6)]
    together = backend.render(jobs)
    for each, image in zip(jobs, together, strict=True):
        assert np.array_equal(backend.render([each])[0], image)
    for image, turned in zip(together, reversed(backend.render(jobs[::-1])), strict=True):
        assert np.array_equal(image, turned)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_negative_prompt_changes_the_image(backends, name):
    without, one, two = backends[name].render([job(1), job(1, negative="dog"), job(1, negative="blurred")])
    assert not np.array_equal(without, one)
    assert not np.array_equal(one, two)


def test_flux_takes_the_strength_of_negative_prompts_from_the_settings(folders, backends):
    weak = DiffusersBackend(folders["flux"], CPU, replace(FAST, true_cfg_scale=1.5))
    jobs = [job(1), job(1, negative="dog")]
    plain, steered = backends["flux"].render(jobs)
    assert np.array_equal(weak.render(jobs)[0], plain)
    assert not np.array_equal(weak.render(jobs)[1], steered)


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": 3},
        {"guidance": 1.5},
        {"scheduler": "EulerAncestralDiscreteScheduler"},
        {"dtype": "bfloat16"},
        {"width": 48, "height": 40},
    ],
)
def test_every_setting_reaches_the_pipeline(folders, backends, changed):
    plain = backends["sd"].render([job(1, size=None)])[0]
    image = DiffusersBackend(folders["sd"], CPU, replace(FAST, **changed)).render([job(1, size=None)])[0]
    assert image.shape == (changed.get("height", 32), changed.get("width", 32), 3)
    assert not np.array_equal(image, plain)


def test_attention_slicing_changes_speed_and_not_the_picture(folders, backends):
    sliced = DiffusersBackend(folders["sd"], CPU, replace(FAST, attention_slicing=True)).render([job(1)])[0]
    assert np.abs(sliced.astype(int) - backends["sd"].render([job(1)])[0]).max() <= 1


def test_a_scheduler_that_draws_noise_at_each_step_is_seeded_too(folders):
    settings = replace(FAST, steps=4, scheduler="EulerAncestralDiscreteScheduler")
    backend = DiffusersBackend(folders["sd"], CPU, settings)
    images = backend.render([job(1), job(2), job(1)])
    assert np.array_equal(images[0], images[2])
    assert not np.array_equal(images[0], images[1])


def test_noise_from_the_global_generator_is_the_images_own_too(folders, monkeypatch):
    """Some schedulers (DPM-Solver SDE) draw from it, whatever generators they are given."""
    backend = DiffusersBackend(folders["sd"], CPU, FAST)
    step = backend._pipe.scheduler.step

    def noisy(output, *args, **kwargs):
        return step(output + torch.randn(output.shape), *args, **kwargs)

    monkeypatch.setattr(backend._pipe.scheduler, "step", noisy)
    torch.manual_seed(12345)
    state = torch.get_rng_state()
    image = backend.render([job(1)])[0]
    assert torch.equal(torch.get_rng_state(), state), "others who use the global generator are disturbed"
    torch.manual_seed(54321)
    assert np.array_equal(backend.render([job(1)])[0], image)


def test_rows_that_cannot_share_a_call_do_not(folders):
    jobs = [job(1), job(2, size=48), job(3, negative="dog"), job(4), job(5, negative="blurred")]
    together = DiffusersBackend(folders["sd"], CPU, replace(FAST, images_per_call=2)).render(jobs)
    one_by_one = DiffusersBackend(folders["sd"], CPU, FAST)
    for each, image in zip(jobs, together, strict=True):
        alone = one_by_one.render([each])[0]
        assert image.shape == alone.shape
        assert np.abs(image.astype(int) - alone).max() <= 1


def test_levels_of_a_bfloat16_pipeline_are_rounded_once(folders, monkeypatch):
    backend = DiffusersBackend(folders["sd"], CPU, FAST)
    levels = torch.linspace(0.0, 0.1, 256).to(torch.bfloat16)
    images = levels.reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    monkeypatch.setattr(backend, "_pipe", lambda **_: SimpleNamespace(images=images))
    image = backend.render([job(1, size=16)])[0]
    assert image[:, :, 0].flatten().tolist() == (levels.float() * 255).round().int().tolist()


def test_a_pipeline_that_makes_another_size_is_found_out(folders, monkeypatch):
    backend = DiffusersBackend(folders["sd"], CPU, FAST)
    monkeypatch.setattr(backend, "_pipe", lambda **_: SimpleNamespace(images=torch.zeros(1, 3, 16, 24)))
    with pytest.raises(SomeRowsError, match="made 24x16 where 32x32 was asked for"):
        backend.render([job(1)])


def test_sizes_are_of_the_row_then_of_the_config_then_of_the_model(folders):
    backend = DiffusersBackend(folders["sd"], CPU, replace(FAST, width=48, height=40))
    own, configured = backend.render([job(1), job(1, size=None)])
    assert own.shape == (32, 32, 3)
    assert configured.shape == (40, 48, 3)


@pytest.mark.parametrize(
    ("name", "size", "multiple"),
    [("sd", 33, 2), ("sd3", 34, 4), ("flux", 34, 4), ("flux", 0, 0), ("sd", -2, 0), ("sd", 4098, 0)],
)
def test_a_size_that_the_pipeline_cannot_make_is_a_reject(backends, name, size, multiple):
    with pytest.raises(RowError, match=f"multiples of {multiple}" if multiple else "must be 1 to 4096") as caught:
        backends[name].check(job(1, size=size))
    assert caught.value.reason == "bad_size"
    backends[name].check(job(1, size=36))


def test_an_empty_text_is_a_reject(backends):
    with pytest.raises(RowError, match="empty_text"):
        backends["sd"].check(job(1, " \n"))


def test_one_image_of_nan_is_rejected_and_its_neighbours_are_not(folders, monkeypatch):
    backend = DiffusersBackend(folders["sd"], CPU, replace(FAST, images_per_call=2))
    whole = backend.render([job(seed) for seed in range(3)])
    decode = backend._pipe.vae.decode
    calls = []

    def spoilt(latents, *args, **kwargs):
        calls.append(1)
        latents = latents.clone()
        if len(calls) == 1:
            latents[1] = float("inf")
        return decode(latents, *args, **kwargs)

    monkeypatch.setattr(backend._pipe.vae, "decode", spoilt)
    with pytest.raises(SomeRowsError) as caught:
        backend.render([job(seed) for seed in range(3)])
    first, second, third = caught.value.results
    assert second.reason == "not_finite"
    assert np.array_equal(first, whole[0])
    assert np.array_equal(third, whole[2])


def test_an_image_that_the_safety_checker_blackens_is_a_reject(folders, monkeypatch):
    backend = DiffusersBackend(folders["sd"], CPU, FAST)
    monkeypatch.setattr(backend._pipe, "run_safety_checker", lambda image, *_: (torch.zeros_like(image), [True]))
    with pytest.raises(SomeRowsError, match="unsafe"):
        backend.render([job(1)])


def test_out_of_memory_makes_the_calls_of_that_size_smaller_and_is_remembered(folders, monkeypatch, caplog):
    backend = DiffusersBackend(folders["sd"], CPU, replace(FAST, images_per_call=4))
    forward = backend._pipe.unet.forward
    refused, calls = [], []

    def narrow(sample, *args, **kwargs):
        calls.append((len(sample) // 2, sample.shape[-1] * 2))  # with guidance each image is there twice
        if len(sample) > 4 and sample.shape[-1] == 16:
            refused.append(len(sample))
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(backend._pipe.unet, "forward", narrow)
    done, failed = {}, {}

    class Sink:
        add = staticmethod(done.__setitem__)
        fail = staticmethod(failed.__setitem__)

    generator = Generator(backend, ImageEncoder("png", 90), batch_rows=4, encode_threads=1)
    generator.render([job(s) for s in range(6)], Sink())
    assert not failed
    assert sorted(done) == list(range(6))
    assert refused == [8]
    generator.render([job(s, size=16 if s == 2 else 32) for s in range(3)], Sink())
    assert refused == [8], "what fits must be remembered from shard to shard"
    assert calls[-1] == (4, 16), "what one size learned of memory does not bind another"
    assert "2 images of this size make a micro-batch, where generate.batch_rows says 4" in caplog.text


def test_prompts_longer_than_the_encoder_are_cut_without_being_logged(backends, capfd):
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    for name in ("diffusers", "transformers", ""):
        logging.getLogger(name).addHandler(handler)
    try:
        for backend in backends.values():
            assert len(backend.render([job(1, LONG_TEXT, negative=LONG_TEXT)])) == 1
    finally:
        for name in ("diffusers", "transformers", ""):
            logging.getLogger(name).removeHandler(handler)
    printed = "".join([*records, *capfd.readouterr()])
    assert "quartz" not in printed
    assert "q u a r t z" not in printed
    assert "truncated" not in printed


def test_awkward_texts_are_rendered(backends):
    for backend in backends.values():
        texts = ["一只猫在沙滩上玩耍", "🐈‍⬛ עברית <b>&amp;</b>", "nul \x00 bell \x07", "x" * 100_000]
        assert len(backend.render([job(1, text) for text in texts])) == 4


def spoil_index(folder: Path, **changes) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | changes))


def truncate(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


class Trap:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def pickle_weights(folder: Path, parts: str) -> None:
    for weights in folder.glob(f"{parts}/*.safetensors"):
        name = "pytorch_model.bin" if weights.name == "model.safetensors" else weights.stem + ".bin"
        weights.with_name(name).write_bytes(pickle.dumps(Trap(folder / "sprung")))
        weights.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "no model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "cannot be loaded"),
        (lambda folder: spoil_index(folder, _class_name="NoSuchPipeline"), "cannot be loaded.*NoSuchPipeline"),
        (lambda folder: spoil_index(folder, _class_name=["pipeline", "Mine"]), "cannot be loaded"),
        (lambda folder: spoil_index(folder, unet=["mine", "Unet"]), "cannot be loaded"),
        (lambda folder: shutil.rmtree(folder / "unet"), "cannot be loaded"),
        (truncate, "cannot be loaded"),
        (lambda folder: pickle_weights(folder, "unet"), "cannot be loaded"),
        (lambda folder: pickle_weights(folder, "text_encoder"), "cannot be loaded"),
        (lambda folder: pickle_weights(folder, "*"), "pickled weights are not read"),
    ],
)
def test_a_directory_that_is_no_pipeline_is_one_clear_error(sd, spoil, message):
    spoil(sd)
    with pytest.raises(UserError, match=message) as caught:
        DiffusersBackend(sd, CPU, FAST)
    assert "\n" not in str(caught.value)
    assert not (sd / "sprung").exists(), "a pickle was read"


@pytest.mark.parametrize(
    ("part", "key"),
    [("unet", "conv_out.weight"), ("vae", "decoder.conv_in.weight"), ("text_encoder", "final_layer_norm.weight")],
)
def test_weights_that_lack_a_tensor_are_refused_rather_than_made_up(sd, part, key):
    from safetensors.torch import load_file, save_file

    (file,) = (sd / part).glob("*.safetensors")
    tensors = load_file(file)
    lost = next(name for name in tensors if name.endswith(key))
    del tensors[lost]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{part} are incomplete: .*{key} is missing \(1 in all\)"):
        DiffusersBackend(sd, CPU, FAST)


def test_even_a_harmless_pickle_is_not_read(sd):
    from safetensors.torch import load_file

    weights = sd / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        DiffusersBackend(sd, CPU, FAST)


def test_code_in_the_directory_is_not_run(sd):
    (sd / "unet" / "mine.py").write_text(f"from pathlib import Path\nPath({str(sd / 'sprung')!r}).touch()\n")
    spoil_index(sd, unet=["mine", "Unet"])
    with pytest.raises(UserError):
        DiffusersBackend(sd, CPU, FAST)
    assert not (sd / "sprung").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheduler": "EulerDiscretScheduler"}, "did you mean EulerDiscreteScheduler"),
        ({"scheduler": ""}, "did you mean"),
        ({"width": 33}, "size in the config.*multiples of 2"),
        ({"images_per_call": 0}, "at least 1"),
        ({"variant": "fp16"}, "cannot be loaded"),
    ],
)
def test_a_setting_that_does_not_fit_is_one_clear_error(folders, settings, message):
    with pytest.raises(UserError, match=message):
        DiffusersBackend(folders["sd"], CPU, replace(FAST, **settings))


def test_a_scheduler_of_another_family_does_not_fit(folders):
    with pytest.raises(UserError, match="FlowMatchEulerDiscreteScheduler"):
        DiffusersBackend(folders["flux"], CPU, replace(FAST, scheduler="DDIMScheduler"))


def test_diffusers_is_loaded_only_when_it_is_used_and_missed_in_one_sentence(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import actors.backend_diffusers as module\n"
        "assert not any(name.split('.')[0] == 'diffusers' for name in sys.modules)\n"
        "sys.modules['diffusers'] = None\n"
        "import torch\n"
        "try:\n"
        f"    module.DiffusersBackend({str(tmp_path)!r}, torch.device('cpu'), module.DiffusersSettings())\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.startswith("UserError ")
    assert "pip install promptmill[diffusers]" in done.stdout
