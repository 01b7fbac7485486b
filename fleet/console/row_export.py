"""A list's rows as CSV or JSON, streamed in batches by key: memory is that of one batch, however many come.

A batch is read when the client has taken the one before, in a transaction of its own, so a slow client holds
no snapshot and no connection: a row that changes meanwhile is told as it is when its turn comes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django.db.models import Model, QuerySet
from django.http import HttpRequest, StreamingHttpResponse

from fleet import long_answers

BATCH: Final = 1_000
FORMATS: Final = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
_DANGEROUS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
Cells = Sequence[Any]
"""One row: texts, numbers, times, None."""


@dataclass(frozen=True)
class Listing:
    """Rows to give. key: a unique column to page by. render: a batch of rows as cells, in order."""

    name: str
    columns: Sequence[str]
    rows: QuerySet[Any]
    render: Callable[[list[Any]], list[Cells]]
    key: str = "pk"
    is_descending: bool = False


def wanted(request: HttpRequest) -> str:
    """`csv` or `json` when the URL asks for one, else "": the page."""
    form = request.GET.get("format", "")
    return form if form in FORMATS else ""


def answer(request: HttpRequest, listing: Listing, form: str) -> StreamingHttpResponse:
    """The rows as a file. form: of FORMATS. Raises BusyError `contended` while too many are being sent."""
    parts = _chunks(listing, form)
    content = long_answers.answer(request, lambda: next(parts, b""))
    found = StreamingHttpResponse(content, content_type=FORMATS[form])
    found["Content-Disposition"] = f'attachment; filename="{listing.name}.{form}"'
    found["Cache-Control"] = "no-store"
    return found


def _chunks(listing: Listing, form: str) -> Iterator[bytes]:
    write = _csv if form == "csv" else _json
    is_first = True
    for batch in _batches(listing):
        yield write(listing.columns, listing.render(batch), is_first).encode()
        is_first = False
    if is_first:
        yield write(listing.columns, [], True).encode()
    if form == "json":
        yield b"\n]\n"


def _batches(listing: Listing) -> Iterator[list[Model]]:
    ordered = listing.rows.order_by(f"-{listing.key}" if listing.is_descending else listing.key)
    found = list(ordered[:BATCH])
    while found:
        yield found
        if len(found) < BATCH:
            return
        last = found[-1].pk if listing.key == "pk" else getattr(found[-1], listing.key)
        side = "lt" if listing.is_descending else "gt"
        found = list(ordered.filter(**{f"{listing.key}__{side}": last})[:BATCH])


def _csv(columns: Sequence[str], rows: list[Cells], is_first: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    if is_first:
        writer.writerow(columns)
    writer.writerows([_safe(_plain(cell)) for cell in row] for row in rows)
    return text.getvalue()


def _json(columns: Sequence[str], rows: list[Cells], is_first: bool) -> str:
    lines = [
        json.dumps(dict(zip(columns, map(_plain, row), strict=True)), ensure_ascii=False) for row in rows
    ]
    begin = "[\n" if is_first else ",\n" if lines else ""
    return begin + ",\n".join(lines)


def _safe(cell: Any) -> Any:
    """A text that a spreadsheet would run as a formula begins with an apostrophe: names and tags are chosen
    by devices and by people, and a file of ours is opened by an administrator.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_DANGEROUS) else cell


def _plain(cell: Any) -> Any:
    if isinstance(cell, datetime):
        return f"{cell.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return cell
