"""Config files, overrides and their errors, as a user meets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import UserError
from actors.recipes import parse_recipe, recipe_names
from pipeline.config import SynthesizeConfig
from pipeline.config_file import load_config, options
from pipeline.encoder_config import TrainEncoderConfig
from pipeline.gan_config import TrainGanConfig
from pipeline.graph import recipe_texts
from pipeline.nightly_config import NightlyConfig

REPO = Path(__file__).parents[2]


def test_file_then_overrides_then_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("shards: {rows: 8}\nexpand: {variants: 3, recipe: art}\n")
    config = load_config(SynthesizeConfig, path, ["expand.variants=5", "generate.actors.gpus=0.5"])
    assert config.expand is not None
    assert (config.shards.rows, config.expand.variants, config.expand.recipe) == (8, 5, "art")
    assert (config.generate.actors.gpus, config.generate.images) == (0.5, 1)


def test_expand_null_switches_the_stage_off() -> None:
    assert load_config(SynthesizeConfig, None, ["expand=null"]).expand is None


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("expand.varients=2", "'expand.varients'; the nearest known one is 'expand.variants'"),
        ("genrate.images=2", "the nearest known one is 'generate"),
        ("expand.variants=0", "'expand.variants'"),
        ("output.format=zip", "'output.format'"),
        ("seed=soon", "'seed'"),
        ("generate.actors={min: 3, max: 2}", "max (2) is below min (3)"),
        ("generate.diffusers={controlnet: x, task: image}", "a controlnet goes with task `words`"),
        ("generate.diffusers={controlnet_scale: 1}", "controlnet_scale needs a controlnet"),
        ("generate.diffusers={strength: 0.5}", "needs task `image` or `inpainting`"),
        ("generate.diffusers={task: image, steps: 1, strength: 0.5}", "steps times strength must be 1 at least"),
        ("generate.diffusers={loras: [a, b], lora_scales: [1]}", "1 lora_scales for 2 loras"),
        ("generate.diffusers={fuse_loras: true}", "fuse_loras needs loras"),
        ("generate.diffusers={quantize_parts: [vae]}", "quantize_parts needs quantize"),
        ("generate.diffusers={placement: balanced}", "set generate.actors.gpus to 2 or more"),
        ("generate.diffusers={loras: [a], fuse_loras: true, quantize: torchao_int8}", "cannot be summed with loras"),
        ("expand.actors.labels={place: 'in(a'}", "labels: place: in(a is no label; write NAME: VALUE, !VALUE, in(A,B)"),
        ("justaword", "section.key=value"),
        ("prompts.uri=[", "cannot be read"),
    ],
)
def test_mistakes_are_one_sentence_that_names_the_option(override: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(SynthesizeConfig, None, [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_wrong_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config file"):
        load_config(SynthesizeConfig, tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(UserError, match="mapping of sections"):
        load_config(SynthesizeConfig, tmp_path / "list.yaml")
    with pytest.raises(UserError, match="directory"):
        load_config(SynthesizeConfig, tmp_path)


def test_every_option_has_a_meaning() -> None:
    listed = list(options(SynthesizeConfig))
    assert len(listed) > 50
    assert all(meaning for _, _, _, meaning in listed)


def test_identity_holds_what_decides_bytes_and_nothing_of_where_or_how_fast() -> None:
    here = load_config(SynthesizeConfig, None, [])
    moved = load_config(
        SynthesizeConfig,
        None,
        ["output.uri=s3://elsewhere/x", "expand.actors.max=9", "limits.stall_timeout=5", "storage.attempts=2"],
    )
    assert moved.identity() == here.identity()
    for override in ("seed=1", "shards.rows=3", "expand.variants=2", "output.image.quality=50", "expand=null"):
        assert load_config(SynthesizeConfig, None, [override]).identity() != here.identity()


def test_languages_of_the_config_go_before_the_recipes_own() -> None:
    """A language model that reads Chinese is given the Chinese prompts, with any shipped recipe."""
    for override, languages in ((), ["en"]), (("expand.languages=[en,zh]",), ["en", "zh"]):
        texts = recipe_texts(load_config(SynthesizeConfig, None, list(override)), by_row=True, names=recipe_names())
        assert {parse_recipe(text).languages == languages for text in texts.values()} == {True}


@pytest.mark.parametrize("path", sorted(REPO.glob("examples/**/*.yaml")), ids=lambda p: p.name)
def test_shipped_configs_parse(path: Path) -> None:
    """Each says in a comment which command it is for."""
    commands = {
        "promptmill train-gan": TrainGanConfig,
        "promptmill train-encoder": TrainEncoderConfig,
        "promptmill nightly": NightlyConfig,
    }
    text = path.read_text()
    # A GAN's file names the encoder's command too: the last one is its own.
    named = max((text.rfind(f"{command} examples/"), command) for command in [*commands, "promptmill synthesize"])
    load_config(commands.get(named[1], SynthesizeConfig) if named[0] >= 0 else SynthesizeConfig, path)
