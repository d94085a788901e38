"""The Ray Data graph of a run: read one block a shard, expand, generate. The only module that knows ``map_batches``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from actors.content_credentials import CredentialSettings
from actors.engine_settings import OpenAISettings, VllmSettings
from actors.errors import UserError
from actors.expander import ExpanderSettings
from actors.recipes import load_recipe
from actors.render_settings import RenderSettings
from actors.scorer import ScorerSettings
from pipeline import logs
from pipeline.board import Board
from pipeline.break_off import listen
from pipeline.config import SynthesizeConfig
from pipeline.config_running import Actors
from pipeline.config_stages import Expand
from pipeline.image_parts import diffusers_settings
from pipeline.image_uris import ImagePlaces
from pipeline.lookahead import bound_lookahead
from pipeline.parquet_encryption import ParquetEncryption
from pipeline.picture_columns import PictureColumns
from pipeline.quota import Quota
from pipeline.run_record import Run
from pipeline.server_side_encryption import with_sse
from pipeline.source import ShardSource, redaction
from pipeline.stages import ExpandStage, GenerateSettings, GenerateStage
from pipeline.storage import Store
from pipeline.traces import trace_settings
from pipeline.watching import Watching, run_name
from pipeline.without_secrets import hide_variable
from promptmill import __version__

_MOST_READERS = 32


def outcomes(
    config: SynthesizeConfig, run: Run, pending: Sequence[int], recipes: dict[str, str], store: Store, board: Board
) -> Iterator[dict[str, Any]]:
    """Runs the graph over the pending shards and yields each shard's outcome as it is committed.

    Needs a Ray that is started. Yields the fields of `pipeline.outcome.OUTCOME_SCHEMA`; any order.
    """
    context = DataContext.get_current()
    # A block is a shard from end to end: no operator may cut it at a size.
    context.target_max_block_size = None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0
    # A pool grows while all that its actors can do at once is being done. Ray's own threshold, 1.75, is above what an
    # actor with two threads and one shard in waiting ever reaches (3 / 2): its pool would stay at `min` for good.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    # A model that fails to load for a passing reason (a cold cache, a busy disk) gets two more tries.
    context.actor_init_retry_on_errors = True
    context.actor_init_max_retries = 2
    bound_lookahead(context)
    listen(context)

    watching = Watching(run_name(run.fingerprint), logs.settings(), trace_settings(config.trace, run.fingerprint))
    most = config.limits.max_in_flight
    quota = Quota(most) if most is not None else None
    source = ShardSource(run.plan, pending, config, frozenset(recipes), watching, quota)
    # Reading takes no CPU of its own: on a small machine the actors hold them all, and a reader must still get through.
    # Without a bound Ray would start all readers at once, each a process: 34 of them on a laptop with two cores. One
    # process is two CPU seconds of a start there, and reads a shard in the time of a task, so that one does.
    readers = max(1, min(_MOST_READERS, int(ray.cluster_resources().get("CPU", 1)) // 2))
    dataset = ray.data.read_datasource(
        source, override_num_blocks=len(pending), num_cpus=0, concurrency=min(readers, len(pending))
    )
    if config.expand is not None:
        dataset = whole_blocks(
            dataset,
            ExpandStage,
            (
                expander_settings(config, recipes, run.hashes),
                config.expand.variants,
                config.seed,
                board,
                config.expand.first_variant,
                watching,
            ),
            pool(config.expand.actors, threads=1),
        )
    dataset = whole_blocks(
        dataset,
        GenerateStage,
        (generate_settings(config, run, store), board, watching),
        pool(config.generate.actors, threads=2),
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        table: pa.Table = batch
        for outcome in table.to_pylist():
            if quota is not None:
                quota.release(outcome["shard"])
            yield outcome


def expander_settings(
    config: SynthesizeConfig, recipes: dict[str, str], hashes: Mapping[str, str | None] | None = None
) -> ExpanderSettings:
    """What an expander actor is told; ``hashes`` are of the run's models, which all nodes must have the same of."""
    expand: Expand | None = config.expand
    if expand is None:
        raise ValueError("the LLM stage is off")
    return ExpanderSettings(
        engine=expand.engine,
        model=expand.model,
        recipes=recipes,
        batch_rows=expand.batch_rows,
        max_new_tokens=expand.max_new_tokens,
        dtype=expand.dtype,
        cpus=expand.actors.cpus,
        gpus=expand.actors.gpus,
        allow_unsafe_models=config.allow_unsafe_models,
        openai=_endpoint(expand) if expand.engine == "openai" else None,
        vllm=VllmSettings(lora=expand.lora, **expand.vllm.model_dump()) if expand.engine == "vllm" else None,
        sha256=(hashes or {}).get("expand"),
        lora_sha256=(hashes or {}).get("expand_lora"),
    )


def _endpoint(expand: Expand) -> OpenAISettings:
    if expand.openai.key_env:
        hide_variable(expand.openai.key_env)
    own = expand.openai.model_dump(exclude={"price_in", "price_out"})
    return OpenAISettings(model=expand.model, **own)


def render_settings(config: SynthesizeConfig, hashes: Mapping[str, str | None] | None = None) -> RenderSettings:
    """What a generator actor's backend is told; ``hashes`` as for `expander_settings`."""
    generate = config.generate
    return RenderSettings(
        kind=generate.backend,
        model=generate.model,
        diffusers=diffusers_settings(generate, hashes),
        allow_unsafe_models=config.unsafe_painter,
        cpus=generate.actors.cpus,
        gpus=generate.actors.gpus,
        sha256=(hashes or {}).get("generate"),
    )


def select_settings(config: SynthesizeConfig) -> ScorerSettings | None:
    """What a scorer is told; None where nothing is scored."""
    own = config.select
    if not config.selects:
        return None
    return ScorerSettings(own.model, config.allow_unsafe_models, own.min_similarity, own.dedupe, own.text)


def recipe_texts(config: SynthesizeConfig, by_row: bool, names: Sequence[str]) -> dict[str, str]:
    """The canonical text of each recipe that the run may use: the config's, and all shipped ones where rows choose."""
    if config.expand is None:
        return {}
    wanted = {config.expand.recipe, *(names if by_row else ())}
    own = {} if config.expand.languages is None else {"languages": config.expand.languages}
    recipes = {name: load_recipe(name).model_copy(update=own) for name in sorted(wanted)}
    unled = [name for name, recipe in recipes.items() if recipe.fields and config.expand.engine == "transformers"]
    if unled:
        raise UserError(
            f"recipe '{unled[0]}' asks for fields, which expand.engine=transformers cannot hold to: use vllm or openai"
        )
    return {name: recipe.canonical() for name, recipe in recipes.items()}


def generate_settings(config: SynthesizeConfig, run: Run, store: Store) -> GenerateSettings:
    """What an image actor is told."""
    honoured = run.plan.columns.honoured
    return GenerateSettings(
        render=render_settings(config, run.hashes),
        encoding=config.output.image.encoding,
        quality=config.output.image.quality,
        batch_rows=config.generate.batch_rows,
        run_seed=config.seed,
        read=run.plan.columns.read,
        carried=run.plan.columns.carried,
        store=store,
        output_format=config.output.format,
        fingerprint=run.fingerprint,
        pictures=picture_columns(config, honoured),
        candidates=config.generate.candidates,
        select=select_settings(config),
        signer=signer_settings(config),
        encryption=encryption_settings(config),
        redaction=redaction(config),
        prompt=run.plan.columns.prompt,
    )


def picture_columns(config: SynthesizeConfig, honoured: Collection[str]) -> PictureColumns | None:
    """Where the rows' pictures are read from; None where the image stage starts from words alone."""
    if "image" not in honoured:
        return None
    own = config.prompts
    places = ImagePlaces(own.uri, tuple(own.image_uris), "prompts.image_uris", with_sse(own.options, own.sse))
    return PictureColumns(places, "mask" in honoured, own.max_image_pixels)


def encryption_settings(config: SynthesizeConfig) -> ParquetEncryption | None:
    """What of the output is encrypted; None where nothing is."""
    own = config.output.encryption
    return None if own is None else ParquetEncryption(None if own.columns is None else tuple(own.columns), own.key_id)


def signer_settings(config: SynthesizeConfig) -> CredentialSettings | None:
    """Where the signer of the images is found; None where they are not signed."""
    own = config.output.c2pa
    if own is None:
        return None
    return CredentialSettings(own.certificate, own.key, own.algorithm, own.timestamp_url, __version__)


def whole_blocks(dataset: Dataset, stage: type, arguments: tuple[Any, ...], asked: dict[str, Any]) -> Dataset:
    """``map_batches`` that gives a stage its blocks as they are, one a call.

    Ray's own method refuses to do so on GPUs, lest a batch be too large for one: it cannot know that these actors cut
    their micro-batches themselves. Ray's ``map_groups`` has the same need, and this is the way it goes.

    Args:
        stage: a class whose instances take and return a table.
        arguments: of its constructor.
        asked: from `pool`.
    """
    how = {"fn_constructor_args": arguments, "batch_size": None, "batch_format": "pyarrow", **asked}
    # Before Ray 2.60 it had another name.
    unchecked = getattr(dataset, "map_batches_internal", None) or dataset._map_batches_without_batch_size_validation
    made: Dataset = unchecked(stage, **how)
    return made


def pool(actors: Actors, threads: int) -> dict[str, Any]:
    """Arguments of ``map_batches`` for one stage's pool; ``threads`` shards may be inside one actor at once."""
    # One more shard waits at each actor, so that it never stands idle between two.
    in_flight = actors.max_in_flight or threads + 1
    inside = min(threads, in_flight)
    strategy = ActorPoolStrategy(
        min_size=actors.min,
        max_size=actors.max,
        max_tasks_in_flight_per_actor=in_flight,
        max_concurrent_calls_per_actor=inside,
        enable_true_multi_threading=inside > 1,
    )
    asked: dict[str, Any] = {"compute": strategy, "num_cpus": actors.cpus, "num_gpus": actors.gpus or None}
    if actors.resources:
        asked["resources"] = dict(actors.resources)
    if actors.accelerator_type:
        asked["accelerator_type"] = actors.accelerator_type
    if actors.labels:
        asked["label_selector"] = dict(actors.labels)
    return asked
