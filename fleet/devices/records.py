"""Lists of devices as text, CSV or NDJSON: one record a line, and every refusal with the number of its line.

Bare Python: it reads form only, whether a device exists is not its matter.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from fleet.devices.errors import GroupError
from fleet.mqtt.topics import is_device_id

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_RECORDS: Final = 100_000
MAX_COLUMNS: Final = 64
FORMATS: Final = {"text/csv": "csv", "application/x-ndjson": "ndjson", "application/ndjson": "ndjson"}
"""Media type -> format."""
_ID: Final = ("id", "device", "device_id")


@dataclass(frozen=True)
class Record:
    """One device. line: in the text, from 1. fields: what else the line says, by column or key."""

    device_id: str
    line: int
    fields: dict[str, Any] = field(default_factory=dict)


def read(data: bytes, form: str) -> list[Record]:
    """Read a list of devices. form: `csv` or `ndjson`.

    CSV: with a first line that names columns, one of them `id`; or without, and then only ids. NDJSON: an
    object with `id` a line, or a text that is an id. Blank lines do not count. Raises GroupError `too_large`,
    and with the line `validation` (not UTF-8, not of the format, no id) or `duplicate` for an id seen before.
    """
    if len(data) > MAX_BYTES:
        raise GroupError("too_large", f"the list has {len(data):,} bytes, at most {MAX_BYTES:,} are read")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refused("the text is not UTF-8", line) from None
    seen: dict[str, int] = {}
    records: list[Record] = []
    for record in _csv(text) if form == "csv" else _ndjson(text):
        if len(records) >= MAX_RECORDS:
            raise _refused(f"a list has at most {MAX_RECORDS:,} devices", record.line)
        if not is_device_id(record.device_id):
            raise _refused(f"{record.device_id[:40]!r} is no device id", record.line)
        if record.device_id in seen:
            first = seen[record.device_id]
            raise _refused(f"{record.device_id} stands in line {first} already", record.line, "duplicate")
        seen[record.device_id] = record.line
        records.append(record)
    return records


def _csv(text: str) -> Iterator[Record]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] | None = None
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise _refused(f"this is no CSV: {error}", max(line, rows.line_num)) from None
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if names is None:
            if any(cell.lower() in _ID for cell in cells):
                names = _columns(cells, line)
                continue
            names = ["id"]
        if len(cells) != len(names):
            raise _refused(f"{len(cells)} values, but {len(names)} columns", line)
        said = dict(zip(names, cells, strict=True))
        yield Record(said.pop("id"), line, said)


def _columns(cells: list[str], line: int) -> list[str]:
    names = ["id" if cell.lower() in _ID else cell for cell in cells]
    if len(names) > MAX_COLUMNS or len(set(names)) != len(names) or "" in names:
        raise _refused(f"columns have names, each once, at most {MAX_COLUMNS}", line)
    return names


def _ndjson(text: str) -> Iterator[Record]:
    for line, row in enumerate(text.split("\n"), start=1):
        if not row.strip():
            continue
        try:
            said = json.loads(row)
        except (ValueError, RecursionError):
            raise _refused("this is no JSON", line) from None
        if isinstance(said, str):
            said = {"id": said}
        if not isinstance(said, dict) or len(said) > MAX_COLUMNS or not isinstance(said.get("id"), str):
            raise _refused('a line is an object with a text "id", or a text', line)
        yield Record(said.pop("id"), line, said)


def _refused(text: str, line: int, code: str = "validation") -> GroupError:
    return GroupError(code, f"line {line}: {text}", line=line)
