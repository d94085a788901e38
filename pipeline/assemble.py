"""From a block of descriptions to image jobs, and from the jobs' outcome to output rows and rejects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from actors.contracts import ImageJob
from actors.errors import RowError
from actors.seeds import derive_seed
from pipeline import columns as c
from pipeline.spool import SpooledImage


@dataclass(frozen=True)
class JobSheet:
    """The image jobs of one shard in output order, and for each the block row it belongs to and its image index."""

    jobs: list[ImageJob]
    rows: list[int]
    image_indices: list[int]


Given = tuple[bytes | None, bytes | None]
"""Picture and mask of a row, as files."""


def image_jobs(
    block: pa.Table, run_seed: int, given: Mapping[int, Given] | None = None, candidates: int = 1
) -> JobSheet:
    """One job an image: rows of the block in order, images of a row in order; rejected rows have none.

    ``given`` are the pictures to go on from, by row of the block; ``candidates`` images are made of a row at least.

    An image's id is ``PROMPT_ID-vVARIANT-INDEX``. Its seed derives from (run seed, image id); a row's own seed counts
    upwards instead, so that the first image of a row with seed 7 has seed 7.
    """
    sheet = JobSheet([], [], [])
    names = (c.ID, c.VARIANT, c.DESCRIPTION, c.NEGATIVE, c.IMAGES, c.SEED, c.WIDTH, c.HEIGHT, c.REASON)
    for row, values in enumerate(block.select(names).to_pylist()):
        if values[c.REASON] is not None:
            continue
        count = max(values[c.IMAGES], candidates)
        for index in range(count):
            image_id = f"{values[c.ID]}-v{values[c.VARIANT]}-{index}"
            if values[c.SEED] is None:
                seed = derive_seed(run_seed, "image", image_id)
            else:
                seed = values[c.SEED] + values[c.VARIANT] * count + index
            picture, mask = (given or {}).get(row, (None, None))
            job = ImageJob(
                image_id, values[c.DESCRIPTION], values[c.NEGATIVE], seed, values[c.WIDTH], values[c.HEIGHT],
                picture, mask,
            )  # fmt: skip
            sheet.jobs.append(job)
            sheet.rows.append(row)
            sheet.image_indices.append(index)
    return sheet


def split_failures(block: pa.Table, sheet: JobSheet, errors: Mapping[int, RowError]) -> tuple[pa.Table, list[int]]:
    """Turns failed jobs into rejects of their prompt rows, whole: a prompt is committed with all its images or not.

    Returns:
        The block with reasons filled in, and the numbers of the jobs that remain, in order.
    """
    prompt_rows = block[c.ROW].to_pylist()
    failed: dict[int, RowError] = {}
    for job in sorted(errors):
        failed.setdefault(prompt_rows[sheet.rows[job]], errors[job])
    kept = [job for job in range(len(sheet.jobs)) if prompt_rows[sheet.rows[job]] not in failed]
    return refuse(block, failed), kept


def refuse(block: pa.Table, failed: Mapping[int, RowError]) -> pa.Table:
    """The block with the reasons of failed prompt rows (by their number in the shard) filled in."""
    prompt_rows = block[c.ROW].to_pylist()
    for name, text in (
        (c.STAGE, lambda e: "generate"),
        (c.REASON, lambda e: e.reason),
        (c.DETAIL, lambda e: e.detail),
    ):
        old = block[name].to_pylist()
        new = [old[i] if r not in failed else text(failed[r]) for i, r in enumerate(prompt_rows)]
        block = block.set_column(block.schema.get_field_index(name), name, pa.array(new, pa.string()))
    return block


def output_rows(
    block: pa.Table,
    sheet: JobSheet,
    kept: list[int],
    images: Mapping[int, SpooledImage],
    carried: tuple[str, ...],
    similarity: Mapping[int, float],
) -> pa.Table:
    """The output rows of the kept jobs without their images, carried columns with their own Arrow types."""
    taken = block.take(pa.array([sheet.rows[job] for job in kept], pa.int64()))
    own: dict[str, Any] = {
        "id": [sheet.jobs[job].image_id for job in kept],
        "prompt_id": taken[c.ID],
        "prompt": taken[c.PROMPT],
        "description": taken[c.DESCRIPTION],
        "description_status": taken[c.STATUS],
        "variant": taken[c.VARIANT],
        "image_index": [sheet.image_indices[job] for job in kept],
        "seed": [sheet.jobs[job].seed for job in kept],
        "width": [images[job].width for job in kept],
        "height": [images[job].height for job in kept],
        "scores": [{"similarity": similarity.get(job)} for job in kept],
    }
    fields = [field for field in c.OUTPUT_FIELDS if field.name != "image"]
    arrays = [
        own[f.name].cast(f.type) if isinstance(own[f.name], pa.ChunkedArray) else pa.array(own[f.name], f.type)
        for f in fields
    ]
    fields += [block.schema.field(name) for name in carried]
    arrays += [taken[name] for name in carried]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def reject_rows(block: pa.Table, read: tuple[str, ...]) -> pa.Table:
    """The rejected prompt rows as a prompt table: the columns that were read, an id, and the reason."""
    rejected = block.filter(pc.is_valid(block[c.REASON]))
    first: dict[int, int] = {}
    for position, row in enumerate(rejected[c.ROW].to_pylist()):
        first.setdefault(row, position)
    rejected = rejected.take(pa.array(list(first.values()), pa.int64()))
    table = rejected.select(list(read))
    if "id" not in read:
        table = table.add_column(0, pa.field("id", pa.string()), rejected[c.ID])
    for field, name in zip(c.REJECT_FIELDS, (c.STAGE, c.REASON, c.DETAIL), strict=True):
        table = table.append_column(field, rejected[name])
    return table
