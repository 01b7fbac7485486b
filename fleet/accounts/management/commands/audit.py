"""`manage.py audit`: is the trail what was written, and a copy of it."""

import argparse
import csv
import json
import sys
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from fleet.accounts import audit_chain
from fleet.accounts.audit_chain import Broken
from fleet.accounts.models import AuditAnchor

_WORDS = {
    "altered": "row {row} is not what was sealed",
    "added": "row {row} was not there when its time was sealed",
    "missing": "a row behind {row} is gone",
    "chain": "the seals themselves do not fit together",
    "anchor": "the chain does not begin where the trail says that older rows left",
}


class Command(BaseCommand):
    help = "Verify the audit trail against its chain of seals, or write it out."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verify = verbs.add_parser(
            "verify", help="compare every sealed row; exit status 1 at the first that differs"
        )
        verify.add_argument("--digest", default="", help="a digest noted earlier: must still be in the chain")
        export = verbs.add_parser("export", help="write rows to standard output, oldest first")
        export.add_argument("--from", dest="start", type=_moment, help="as 2026-05-02T00:00:00Z")
        export.add_argument("--to", dest="end", type=_moment, help="rows before this time")
        export.add_argument("--format", choices=("ndjson", "csv"), default="ndjson")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["verb"] == "export":
            self._export(options)
            return
        found = audit_chain.verify(self._progress)
        if found.broken is not None:
            raise CommandError(_told(found.broken))
        if options["digest"] and not audit_chain.is_in_chain(options["digest"]):
            text = "audit_broken: no seal has this digest any more: the chain was made anew"
            start = audit_chain.begin()
            if start.seals:
                text += f", or it is of one of seals 1 to {start.seals:,}, which have left by retention"
            raise CommandError(text)
        self.stdout.write(
            f"{found.rows:,} rows under {found.seals - audit_chain.begin().seals:,} seals are as written; "
            f"{found.unsealed:,} are younger.\n{self._left()}digest {found.digest or 'none yet'}\n"
            "Note it elsewhere: `audit verify --digest` holds the chain to it."
        )

    def _left(self) -> str:
        anchor = AuditAnchor.objects.first()
        return "" if anchor is None else f"{anchor.rows:,} older rows have left, up to seal {anchor.n:,}.\n"

    def _progress(self, rows: int) -> None:
        if sys.stderr.isatty():
            self.stderr.write(f"\r{rows:,} rows", ending="")

    def _export(self, options: dict[str, Any]) -> None:
        rows = audit_chain.export(options["start"], options["end"])
        if options["format"] == "ndjson":
            for row in rows:
                self.stdout.write(json.dumps(row))
            return
        writer = csv.writer(self.stdout, lineterminator="\n")
        for n, row in enumerate(rows):
            if n == 0:
                writer.writerow(row)
            writer.writerow([json.dumps(one) if isinstance(one, dict) else one for one in row.values()])


def _told(broken: Broken) -> str:
    words = _WORDS[broken.what].format(row=broken.row or f"the start of seal {broken.seal}")
    return f"audit_broken: seal {broken.seal}: {words}"


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text} has no time zone: add Z or an offset")
    return found
