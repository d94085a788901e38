"""What an image says of itself: ``promptmill inspect IMAGE [OUTPUT]``."""

from __future__ import annotations

import sys

from actors.errors import JobError
from jobs.printing import print_rows

_LONGEST = 300
"""Characters of a prompt or description that are printed."""


def run(image: str, output: str | None, sse: str | None = None) -> None:
    """Prints marks, digest and size, and the image's row; `JobError` (status 1) where the output does not have it."""
    from actors.content_credentials import read_credentials
    from pipeline.inspect_image import inspect_image, row_of
    from pipeline.server_side_encryption import with_sse
    from pipeline.storage import Store

    found = inspect_image(image)
    rows = [
        ("file", f"{found.format}, {found.width}x{found.height} pixels, {len(found.data)} bytes"),
        ("sha256", found.sha256),
    ]
    if found.marks is None:
        rows.append(("marks", f"none that can be read: {found.fault}"))
    else:
        rows.append(("synthetic", "yes, it says so" if found.marks.synthetic else "it does not say so"))
        rows.append(("source", found.marks.digital_source_type or "no IPTC DigitalSourceType"))
        rows += [(f"AIGC {name}", value) for name, value in found.marks.aigc.items() if value]
    rows += [("C2PA", line) for line in read_credentials(found.data, found.media_type)]
    print_rows(rows)
    if output is None:
        return
    store = Store(output, with_sse({}, sse))
    row = row_of(found, store)
    if row is None:
        raise JobError(f"'{store.public()}' has no image of this id")
    values = row.values
    same = "the same bytes" if row.image == found.data else "another file: the image was changed since it was made"
    print_rows(
        [
            ("row", f"shard {row.shard}, id {values['id']}"),
            ("prompt", str(values.get("prompt"))[:_LONGEST]),
            ("description", str(values.get("description"))[:_LONGEST]),
            ("seed", str(values.get("seed"))),
            ("stored", same),
        ]
    )


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["inspect", *sys.argv[1:]]))
