"""The dataset card: ``README.md`` with the Hub's YAML header. The same records give the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import yaml

from pipeline.columns import OUTPUT_FIELDS
from pipeline.facts import Facts
from pipeline.hub_features import parquet_features, webdataset_features
from pipeline.inert_text import Inert, block, code, compact, markdown, shortened, visible

_TEMPLATES = Path(__file__).parent / "templates"
_SIZES = [
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
]
# Patterns of `datasets`; the folder form needs the metadata files beside the images.
DATA_FILES = {"parquet": "data/*.parquet", "webdataset": "data/*.tar", "files": "data/**"}
_COLUMNS = {
    "id": "the image's own name in this dataset: prompt_id, variant and image index; also in the image's marks",
    "prompt_id": "the prompt row: its id in the prompt table, or a hash of the row's content",
    "prompt": "the prompt as it was in the table",
    "description": "the text that the image was made from",
    "description_status": "accepted: written by the language model and checked; prompt: the prompt as it is; "
    "anything else says why the prompt stands in for the description",
    "variant": "which description of the prompt, from 0",
    "image_index": "which image of the description, from 0",
    "seed": "of the image's own random generator: with the model it makes the same image again",
    "image": "the encoded image",
    "width": "of the image, pixels",
    "height": "of the image, pixels",
    "scores": "measures of the image; null where they were not taken",
}


def render_card(facts: Facts) -> str:
    """The card as Markdown. Text that others wrote (config, column names, recipes) is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=False,
        finalize=_only_inert,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., Inert]] = {
        "md": markdown,
        "code": code,
        "block": block,
        "count": lambda number: Inert(f"{number:,}"),
        "recipe": lambda text: block(shortened(text, 4000)),
    }
    environment.filters.update(filters)
    template = environment.get_template("card.md.j2")
    return template.render(
        header=Inert(yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True, width=100)),
        facts=facts,
        columns=_columns(facts),
        settings={key: compact(value) for key, value in flatten(facts.config) if value is not None},
        data_files=Inert(DATA_FILES[facts.output_format]),
        extension=Inert(facts.extension),
    )


def front_matter(facts: Facts) -> dict[str, Any]:
    """The YAML header of the card, as the Hub and ``datasets.load_dataset`` read it."""
    header: dict[str, Any] = {"pretty_name": visible(facts.title), "license": visible(facts.license)}
    if facts.languages:
        header["language"] = [visible(language) for language in facts.languages]
    header["task_categories"] = ["text-to-image"]
    header["size_categories"] = [_size(facts.totals.images)]
    header["tags"] = ["synthetic", "promptmill", *(["webdataset"] if facts.output_format == "webdataset" else [])]
    files = {"split": "train", "path": DATA_FILES[facts.output_format]}
    header["configs"] = [{"config_name": "default", "data_files": [files]}]
    features = _features(facts)
    if features is not None:
        header["dataset_info"] = {"features": features}
    return header


def read_front_matter(card: bytes) -> dict[str, Any]:
    """The YAML header of an existing card; empty where it has none that can be read."""
    text = card.decode("utf-8", "replace")
    if not text.startswith("---\n"):
        return {}
    try:
        header = yaml.safe_load(text[4:].partition("\n---")[0])
    except yaml.YAMLError:
        return {}
    return header if isinstance(header, dict) else {}


def flatten(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested options as (``section.key``, value), in the config's order."""
    found: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, dict) and value:
            found += flatten(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def _features(facts: Facts) -> list[dict[str, Any]] | None:
    if facts.schema is None or facts.output_format == "files":
        # `imagefolder` takes its features from metadata.parquet and from nothing else.
        return None
    if facts.output_format == "parquet":
        return parquet_features(facts.schema)
    return webdataset_features(facts.schema, facts.extension)


def _columns(facts: Facts) -> list[tuple[str, str, Inert]]:
    """(name, type, meaning) of each column, in the output's order."""
    own = {field.name: str(field.type) for field in OUTPUT_FIELDS} | {
        "image": facts.config["output"]["image"]["encoding"]
    }
    rows = [(name, kind, Inert(_COLUMNS[name])) for name, kind in own.items()]
    for name in facts.carried:
        known = facts.schema is not None and name in facts.schema.names
        kind = str(facts.schema.field(name).type) if known and facts.schema is not None else ""
        rows.append((name, kind, Inert("carried from the prompt table")))
    return rows


def _size(images: int) -> str:
    return next((name for limit, name in _SIZES if images < limit), "1B<n<10B")


def _only_inert(value: Any) -> Any:
    """Lets pass what is escaped for Markdown; a forgotten filter is an error and not an injection."""
    if isinstance(value, Inert) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise TypeError(f"the card's template prints {type(value).__name__} without a filter")
