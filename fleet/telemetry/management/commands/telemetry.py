"""`manage.py telemetry`: compare rollups with raw rows, make them anew, compact what is due."""

import argparse
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, transaction
from django.utils import timezone

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.telemetry import compaction, partitions, recompute, verification

ACTOR = Actor("command", "manage.py telemetry")
DAY = timedelta(days=1)


class Command(BaseCommand):
    help = "Compare rollups with the raw rows they were made from, make them anew, compact what is due."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verify = verbs.add_parser("verify", help="compare every rollup with raw rows; exit 1 on a difference")
        anew = verbs.add_parser("recompute", help="make minutes, hours, days, accuracy, histograms anew")
        for one in (verify, anew):
            one.add_argument("--from", dest="start", help="first UTC day, 2026-05-01 (default: yesterday)")
            one.add_argument("--to", dest="end", help="last UTC day (default: today)")
        verbs.add_parser("compact", help="compact the hours that are due, as the workers do each minute")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            if options["verb"] == "compact":
                self.stdout.write(f"compacted {self._compact(now)} hours")
                return
            start, end = _range(options, now)
            if options["verb"] == "verify":
                self._verify(start, end)
            else:
                self._recompute(start, end, now)
        except OperationalError as error:
            raise CommandError(f"unavailable: {str(error).strip()}") from error

    def _verify(self, start: datetime, end: datetime) -> None:
        verdict = verification.verify(start, end)
        for table, rows in verdict.rows.items():
            unlike = sum(one.table.split()[0] == table for one in verdict.differences)
            self.stdout.write(f"{table:<18} {rows:>12,} rows  {f'{unlike} differ' if unlike else 'as raw'}")
        for one in verdict.differences[: verification.MOST]:
            self.stdout.write(f"  {one.table} {one.key}: raw {one.raw}, kept {one.kept}")
        if verdict.differences:
            raise CommandError(
                "rollup_differs: `manage.py telemetry recompute` makes them anew from raw rows"
            )

    def _recompute(self, start: datetime, end: datetime, now: datetime) -> None:
        hours = 0
        for n in range((end - start) // DAY):
            day = start + n * DAY
            if day.date() not in partitions.existing("tele_window"):
                continue
            for hour in (day + timedelta(hours=h) for h in range(24)):
                if hour <= now:
                    recompute.marked_hour(hour)
                    hours += 1
            recompute.device_day(day)
        with transaction.atomic():
            after = {"from": f"{start:%Y-%m-%d}", "to": f"{end - DAY:%Y-%m-%d}", "hours": hours}
            audit.record(
                actor=ACTOR, verb="telemetry.recompute", subject_kind="telemetry", subject_id="rollups",
                at=now, after=after,
            )  # fmt: skip
        self.stdout.write(f"made {hours} hours anew, compacted {self._compact(now)}")

    def _compact(self, now: datetime) -> int:
        done = 0
        while n := compaction.run(now):
            done += n
        return done


def _range(options: dict[str, Any], now: datetime) -> tuple[datetime, datetime]:
    """[first day, day after the last), from the arguments."""
    today = partitions.day_of(now)
    try:
        first = date.fromisoformat(options["start"]) if options["start"] else today - DAY
        last = date.fromisoformat(options["end"]) if options["end"] else today
    except ValueError as error:
        raise CommandError(f"range_invalid: a day is written 2026-05-01: {error}") from error
    oldest = partitions.day_of(partitions.raw_from(now))
    if first > last:
        raise CommandError("range_invalid: --from is after --to")
    if first < oldest:
        raise CommandError(f"raw_expired: raw rows are kept 30 days, from {oldest:%Y-%m-%d} on")
    return _midnight(first), _midnight(last) + DAY


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
