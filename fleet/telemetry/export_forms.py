"""How rows of an export are written: NDJSON, CSV or Parquet. A writer holds at most one group of rows.

Parquet is one file like any other, though its rows come as a stream: groups of rows first, what is where
last. It needs pyarrow (the extra `cold`); without it the form is refused, the other two never notice.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from fleet.telemetry.errors import QueryError

FORMATS: Final = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}
GROUP_ROWS: Final = 50_000
"""Rows of a Parquet row group: about 8 MB of windows while they wait for their group."""
COMPRESSION: Final = "zstd"
_TEXTS: Final = frozenset({"device_id", "model", "version", "mid", "sample_id", "body"})
_FLOATS: Final = frozenset({"score", "margin", "anomaly", "anomaly_max"})


class Writer(Protocol):
    """Bytes of rows, in order; `end` is called once, after the last rows."""

    def write(self, rows: Sequence[tuple[Any, ...]]) -> bytes:
        """What these rows add to the file; b"" while they wait for more."""

    def end(self) -> bytes:
        """What the file ends with."""


def check(form: str) -> None:
    """Refuse a form that cannot be written here. Raises QueryError `format_unknown`."""
    if form not in FORMATS:
        raise QueryError("format_unknown", f"{form[:40]!r} is none of {', '.join(FORMATS)}")
    if form == "parquet" and arrow() is None:
        raise QueryError(
            "format_unknown",
            "parquet needs the optional packages of the extra `cold`, which are not installed here:"
            " pip install 'tinyfleet[cold]'",
        )


def writer(form: str, names: Sequence[str], *, has_head: bool = True) -> Writer:
    """A writer of rows with these columns. has_head: False for CSV that goes on what another writer began.

    Raises QueryError `format_unknown`.
    """
    check(form)
    if form == "parquet":
        return _Parquet(names)
    return _Ndjson(names) if form == "ndjson" else _Csv(names, has_head=has_head)


def join(form: str, parts: Sequence[Path], into: BinaryIO) -> None:
    """Write the files of several writers as one. Parquet is read and written a group of rows at a time."""
    if form != "parquet":
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, into, 1 << 20)
        return
    found = arrow()
    schema = found.parquet.read_schema(parts[0])
    with found.parquet.ParquetWriter(into, schema, compression=COMPRESSION) as merged:
        for part in parts:
            with found.parquet.ParquetFile(part) as opened:
                for n in range(opened.num_row_groups):
                    merged.write_table(opened.read_row_group(n))


def arrow() -> Any:
    """The package pyarrow with pyarrow.parquet loaded, None where it is not installed."""
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        return None


class _Ndjson:
    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def write(self, rows: Sequence[tuple[Any, ...]]) -> bytes:
        lines = []
        for row in rows:
            told = dict(zip(self._names, row, strict=True))
            told["at"] = _stamp(told["at"])
            if "body" in told:
                told["body"] = json.loads(told["body"])
            lines.append(json.dumps(told, ensure_ascii=False, separators=(",", ":")) + "\n")
        return "".join(lines).encode()

    def end(self) -> bytes:
        return b""


class _Csv:
    def __init__(self, names: Sequence[str], *, has_head: bool) -> None:
        self._head = ",".join(names) + "\r\n" if has_head else ""
        self._at = names.index("at")

    def write(self, rows: Sequence[tuple[Any, ...]]) -> bytes:
        at = self._at
        text = io.StringIO()
        text.write(self._head)
        csv.writer(text).writerows([*row[:at], _stamp(row[at]), *row[at + 1 :]] for row in rows)
        self._head = ""
        return text.getvalue().encode()

    def end(self) -> bytes:
        return self._head.encode()


class _Sink(io.RawIOBase):
    """A file that only grows, whose bytes are taken away as they come."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._at += len(self._parts[-1])
        return len(self._parts[-1])

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


class _Parquet:
    """Times are UTC in microseconds, whole numbers 64 bits wide, `body` JSON text."""

    def __init__(self, names: Sequence[str]) -> None:
        self._arrow = arrow()
        self._schema = self._arrow.schema([(name, _type(self._arrow, name)) for name in names])
        self._sink = _Sink()
        self._file = self._arrow.parquet.ParquetWriter(self._sink, self._schema, compression=COMPRESSION)
        self._waiting: list[Any] = []
        self._rows = 0

    def write(self, rows: Sequence[tuple[Any, ...]]) -> bytes:
        if rows:
            columns = [
                self._arrow.array(values, type=field.type)
                for values, field in zip(zip(*rows, strict=True), self._schema, strict=True)
            ]
            self._waiting.append(self._arrow.record_batch(columns, schema=self._schema))
            self._rows += len(rows)
        if self._rows >= GROUP_ROWS:
            self._write_group()
        return self._sink.take()

    def end(self) -> bytes:
        self._write_group()
        self._file.close()
        return self._sink.take()

    def _write_group(self) -> None:
        if self._waiting:
            table = self._arrow.Table.from_batches(self._waiting, schema=self._schema)
            self._file.write_table(table, row_group_size=max(self._rows, 1))
            self._waiting, self._rows = [], 0


def _type(arrow: Any, name: str) -> Any:
    if name == "at":
        return arrow.timestamp("us", tz="UTC")
    if name in _TEXTS:
        return arrow.string()
    return arrow.float64() if name in _FLOATS else arrow.int64()


def _stamp(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
