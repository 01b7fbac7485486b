"""Write the shared vectors: `python -m tests.vectors.generate`. Deterministic: same code, same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.vectors import basics, downlinks, event, primitives, reported, signed, sketches, telemetry

FOLDER = Path(__file__).parent


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """(file name, content) of every vector file."""
    yield "codes.json", basics.codes()
    yield "keys.json", basics.key_table()
    yield "leaves.json", basics.leaves()
    yield "sketches.json", sketches.sketches()
    yield "primitives.json", primitives.primitives()
    for name, build in (
        ("cbor", basics.cbor),
        ("classes", basics.classes),
        ("manifest", signed.manifest),
        ("trust", signed.trust),
        ("desired", downlinks.desired),
        ("cmd", downlinks.cmd),
        ("reported", reported.reported),
        ("telemetry", telemetry.telemetry),
        ("event", event.event),
    ):
        yield f"{name}.json", build().document()


def files() -> Iterator[tuple[Path, str]]:
    """(path, text) of every vector file."""
    for name, content in documents():
        yield FOLDER / name, json.dumps(content, indent=1) + "\n"


def main() -> None:
    """Write all files and say how many vectors each has."""
    for path, text in files():
        path.write_text(text)
        print(f"{path.name}: {len(json.loads(text).get('vectors', ()))} vectors")


if __name__ == "__main__":
    main()
