"""The audit trail as NDJSON or CSV, oldest first, a batch at a time.

Batches are read by key, each in a statement of its own: the trail is only ever added to, so they fit together
without a snapshot that would be held while a client reads. An export ends at the newest row that there was
when it began.

A cell of CSV that begins like a formula (devices choose names, people choose reasons) gets an apostrophe in
front, or a spreadsheet would run it. NDJSON is exact, with the columns that the chain hashes.
"""

from __future__ import annotations

import csv
import io
import json
from typing import Any, Final
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpRequest, StreamingHttpResponse

from fleet import long_answers
from fleet.accounts import audit_chain
from fleet.accounts.models import AuditEvent

FORMATS: Final = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
BATCH: Final = 2_000
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class AuditExport:
    """Bytes of an export, in chunks."""

    def __init__(self, rows: QuerySet[AuditEvent], form: str) -> None:
        """form: one of FORMATS. Looks up where the trail ends now."""
        self._rows = rows.order_by("id")
        self._form = form
        self._last: UUID | None = None
        newest = AuditEvent.objects.order_by("-id").values_list("id", flat=True).first()
        self._end = newest
        self._is_begun = False

    def chunk(self) -> bytes:
        """The next rows, b"" after the last one. Raises django.db.Error in the midst; the transfer must then
        not end as if it were whole.
        """
        if self._end is None:
            return b""
        rows = self._rows.filter(id__lte=self._end)
        if self._last is not None:
            rows = rows.filter(id__gt=self._last)
        found = [audit_chain.said(row) for row in rows.values(*audit_chain.FIELDS)[:BATCH]]
        head = ",".join(audit_chain.FIELDS) + "\r\n" if self._form == "csv" and not self._is_begun else ""
        self._is_begun = True
        if found:
            self._last = UUID(found[-1]["id"])
        return (head + _WRITERS[self._form](found)).encode()


def answer(request: HttpRequest, rows: QuerySet[AuditEvent], form: str) -> StreamingHttpResponse:
    """An export as a file to keep. Raises BusyError `contended` while too many files are being sent."""
    parts = long_answers.answer(request, AuditExport(rows, form).chunk)
    made = StreamingHttpResponse(parts, content_type=FORMATS[form])
    made["Content-Disposition"] = f'attachment; filename="audit.{form}"'
    made["Cache-Control"] = "no-store"
    made["X-Accel-Buffering"] = "no"
    return made


def _ndjson(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row.values()] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return f"'{text}" if text.startswith(_FORMULA) else text


_WRITERS: Final = {"ndjson": _ndjson, "csv": _csv}
