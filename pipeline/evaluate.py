"""The evaluation: features of images and reference, metrics with intervals, and where they are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from actors.errors import UserError
from actors.features import RESAMPLER, features_name
from actors.model_uri import LocalModel, resolve_model
from pipeline.cluster import connected
from pipeline.describe import describe_again
from pipeline.evaluate_config import EvaluateConfig, Images
from pipeline.evaluation_report import EVALUATION, METRICS, REPORT, render_evaluation
from pipeline.extract import Extraction, ExtractSettings, extract_missing
from pipeline.feature_table import FeatureTable, features_key
from pipeline.gather import Gathered, gather
from pipeline.image_table import ImageTable, open_images
from pipeline.judged import FIGURES, Judged, encode_figures, metric_line
from pipeline.language_measures import language
from pipeline.measure import Metric, measure
from pipeline.pair import paired_figures, pairing
from pipeline.run_record import RUN, read_run
from pipeline.server_side_encryption import with_sse
from pipeline.storage import Store
from pipeline.storage_errors import public_uri

_FILES = (".parquet", ".tar", ".jsonl", ".csv")
_NAMES = {"psnr": "PSNR, dB", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS (alexnet)"}


@dataclass(frozen=True)
class _Sets:
    """Feature tables of an evaluation, and the pairs where they are asked for."""

    made: FeatureTable
    real: FeatureTable | None
    pairs: FeatureTable | None


def evaluate(
    config: EvaluateConfig,
    *,
    address: str | None = None,
    debug: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Evaluates, writes ``metrics.json`` and a page, and returns what the former says.

    Args:
        config: what is judged, beside what, by which features.
        address: Ray cluster; None takes ``RAY_ADDRESS`` or starts a local one. None starts where all features are kept.
        debug: Ray's and the workers' logs reach the terminal.
        say: takes remarks, one sentence each.

    Raises:
        UserError: a table, column or model is not what it must be; too few images.
        JobError: the store failed.
    """
    made = open_images(config.generated, "generated")
    real = open_images(config.reference, "reference") if config.reference.uri else None
    if config.measures.lpips and not config.measures.paired:
        raise UserError("measures.lpips compares pairs: set measures.paired=true too, and reference.uri to the truth")
    if config.measures.paired and real is None:
        raise UserError("measures.paired needs reference.uri: the table that holds the truth under the same ids")
    dataset = _dataset(config.generated)
    store, output = _open_output(config, dataset)
    if dataset is not None and config.generated.text is None and _settings(dataset).get("redact"):
        hidden = _settings(dataset)["redact"]
        if made.text in (*hidden["drop"], *hidden["hash"]):
            say("the words of the generated images were redacted: what compares images with words is left out")
            made = replace(made, text=None, language=())
    model = resolve_model(config.features.model, allow_unsafe=config.allow_unsafe_models)
    sets = _sets(config, store, made, real, model)
    if _unfinished(sets):
        _extract(config, sets, made, real, address=address, debug=debug, say=say)
    judged = _judge(config, sets, made, real, model)
    store.replace(FIGURES, encode_figures(judged.metrics))
    store.replace(METRICS, json.dumps(judged.document, indent=2, ensure_ascii=False).encode())
    store.replace(REPORT, render_evaluation(judged.document).encode())
    if output is not None:
        describe_again(output)
    if config.output.tensorboard:
        _scalars(judged.document, config.output.tensorboard)
    return {**judged.document, "written": store.public()}


def _dataset(generated: Images) -> Store | None:
    """The promptmill output that is judged; None where it is another table."""
    if generated.uri is None or generated.uri.endswith(_FILES) or any(mark in generated.uri for mark in "*?["):
        return None
    made = Store(generated.uri, with_sse(generated.options, generated.sse))
    return made if made.size(RUN) is not None else None


def _open_output(config: EvaluateConfig, dataset: Store | None) -> tuple[Store, Store | None]:
    """Where results go, and the promptmill output whose report gets a section, if they lie in one."""
    generated = config.generated
    assert generated.uri is not None
    if config.output.uri is None and dataset is not None and _settings(dataset)["output"].get("encryption") is not None:
        raise UserError(
            f"the rows of '{public_uri(generated.uri)}' are encrypted, and an evaluation keeps ids, words and features "
            "readable: name a place that may hold them in output.uri"
        )
    if config.output.uri is not None:
        return Store(config.output.uri, with_sse(config.output.options, config.output.sse)), None
    if dataset is None:
        raise UserError(
            f"output.uri is not set and '{public_uri(generated.uri)}' is no promptmill output: name a place for results"
        )
    return Store(f"{generated.uri.rstrip('/')}/{EVALUATION}", with_sse(generated.options, generated.sse)), dataset


def _settings(dataset: Store) -> dict[str, Any]:
    """The options that decided the dataset's bytes."""
    found: dict[str, Any] = read_run(dataset)["identity"]["config"]
    return found


def _sets(config: EvaluateConfig, store: Store, made: ImageTable, real: ImageTable | None, model: LocalModel) -> _Sets:
    def table(name: str, images: ImageTable, *more: object) -> FeatureTable:
        key = features_key(images.table.content, images.table.image, images.id, images.group, images.text, *more)
        return FeatureTable(store, f"features/{name}-{key}", len(images.fragments))

    within = config.measures.within
    pairs = None
    if config.measures.paired and real is not None:
        judge = resolve_model(config.measures.lpips, allow_unsafe=None).sha256 if config.measures.lpips else None
        pairs = table("pairs", made, real.table.content, real.table.image, real.id, judge)
    return _Sets(
        table("generated", made, model.sha256, within),
        table("reference", real, model.sha256) if real is not None else None,
        pairs,
    )


def _unfinished(sets: _Sets) -> bool:
    return any(table is not None and table.missing() for table in (sets.made, sets.real, sets.pairs))


def _extract(
    config: EvaluateConfig,
    sets: _Sets,
    made: ImageTable,
    real: ImageTable | None,
    *,
    address: str | None,
    debug: bool,
    say: Callable[[str], None],
) -> None:
    own = config.features
    tables = {"generated": Extraction(made, sets.made, config.measures.within)}
    if real is not None and sets.real is not None:
        tables["reference"] = Extraction(real, sets.real)
    pairs = None
    if sets.pairs is not None and real is not None:
        pairs = pairing(made, real, sets.pairs, config.measures.lpips)
    settings = ExtractSettings(
        tables, pairs, own.model, config.allow_unsafe_models, own.batch_rows, own.actors.cpus, own.actors.gpus
    )
    counts = {name: _counted(name, len(one.features.missing()), say) for name, one in tables.items()}
    if pairs is not None:
        counts["pairs"] = _counted("pairs", len(pairs.features.missing()), say)
    with connected(address, config.cluster, debug):
        extract_missing(settings, own.actors, lambda name, rows, skipped: counts[name](rows, skipped))


def _counted(name: str, parts: int, say: Callable[[str], None]) -> Callable[[int, int], None]:
    done = [0, 0, 0]

    def tell(rows: int, skipped: int) -> None:
        done[0] += 1
        done[1] += rows
        done[2] += skipped
        say(f"{name}: {done[0]}/{parts} parts, {done[1]} images" + (f", {done[2]} skipped" if done[2] else ""))

    return tell


def _judge(config: EvaluateConfig, sets: _Sets, made: ImageTable, real: ImageTable | None, model: LocalModel) -> Judged:
    name = features_name(config.features.model)
    settings, seed = config.measures, config.seed
    gathered = gather(sets.made, seed, settings.subset, "generated")
    beside = gather(sets.real, seed, settings.subset, "reference") if sets.real is not None else None
    metrics, warnings = measure(gathered, beside, name, settings, seed)
    if sets.pairs is not None:
        metrics += _paired(sets.pairs)
    metrics += language(made)
    warnings += _counts_of(sets, gathered, made)
    document = {
        "promptmill": version("promptmill"),
        "generated": _told(config.generated.uri, made, gathered.rows, sets.made),
        "reference": _told(config.reference.uri, real, beside.rows, sets.real)
        if real is not None and beside is not None and sets.real is not None
        else None,
        "features": {
            "name": name, "model": _publishable(model.uri), "sha256": model.sha256,
            "dimensions": int(gathered.features.shape[1]), "resampler": RESAMPLER,
        },
        "seed": seed,
        "measures": settings.model_dump(),
        "metrics": [metric_line(metric, seed) for metric in metrics],
        "warnings": warnings,
    }  # fmt: skip
    return Judged(metrics, document)


def _told(uri: str | None, images: ImageTable, rows: int, table: FeatureTable) -> dict[str, Any]:
    assert uri is not None
    return {
        "uri": _publishable(public_uri(uri)), "content": images.table.content, "images": rows, "text": images.text,
        "skipped": table.skipped(),
    }  # fmt: skip


def _counts_of(sets: _Sets, made: Gathered, images: ImageTable) -> list[str]:
    found = []
    for name, table in (("generated", sets.made), ("reference", sets.real)):
        if table is None:
            continue
        for reason, count in sorted(table.skipped().items()):
            found.append(f"{count} of the {name} images are left out: {reason}")
    silent = sum(text is None for text in made.texts)
    if images.text is not None and silent and made.words.shape[1]:
        found.append(f"{silent} images of the subset have no words: text-image metrics leave them out")
    if images.text is None:
        found.append("the generated images have no column of words: no text-image metric (generated.text names one)")
    return found


def _paired(pairs: FeatureTable) -> list[Metric]:
    found = []
    for name, figure in paired_figures(pairs).items():
        if figure.count:
            shown = _NAMES[name]
            how = f"mean over {figure.count} images and the truth with the same id, at the image's own size"
            if name == "ms_ssim":
                how += "; five scales from 176 pixels on, fewer below"
            found.append(Metric(shown, figure, how, "lower" if name == "lpips" else "higher", beside=True))
    return found


def _scalars(document: dict[str, Any], directory: str) -> None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("output.tensorboard needs the extra `train`: pip install 'promptmill[train]'") from error
    with SummaryWriter(directory) as writer:
        for line in document["metrics"]:
            if line["value"] is not None:
                writer.add_scalar(f"evaluation/{line['name']}", line["value"], 0)


def _publishable(uri: str) -> str:
    return uri if ":" in uri else uri.rstrip("/").rpartition("/")[2]
