"""`manage.py telemetry`: compare rollups with raw rows, make them anew, compact, cool, choose references,
calibrate, replay.

It is the gateway's because replaying is: what was refused goes through the gateway's reading once more.
"""

import argparse
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, transaction
from django.utils import timezone

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.devices.errors import DeviceError
from fleet.devices.installation import installation_id
from fleet.gateway import replay
from fleet.gateway.uplink import Reader
from fleet.sealing import SealError
from fleet.telemetry import (
    baselines,
    calibrations,
    cold,
    compaction,
    partitions,
    recompute,
    retention,
    verification,
)
from fleet.telemetry.calibrations import Found
from fleet.telemetry.errors import TelemetryError
from fleet.telemetry.models import ColdPart, Version

ACTOR = Actor("command", "manage.py telemetry")
DAY = timedelta(days=1)
LINES = {
    Found.NEW: "a line",
    Found.SAME: "the labels say the same, the line of {:%Y-%m-%d %H:%M} UTC holds:",
    Found.FEWER: "fewer labels are there now, the line of {:%Y-%m-%d %H:%M} UTC holds:",
}


class Command(BaseCommand):
    help = "Compare rollups with raw rows, make them anew, compact, choose references of drift, calibrate."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verify = verbs.add_parser("verify", help="compare every rollup with raw rows; exit 1 on a difference")
        anew = verbs.add_parser("recompute", help="make minutes, hours, days, accuracy, histograms anew")
        for one in (verify, anew):
            one.add_argument("--from", dest="start", help="first UTC day, 2026-05-01 (default: yesterday)")
            one.add_argument("--to", dest="end", help="last UTC day (default: today)")
        base = verbs.add_parser(
            "baseline", help="make a range the reference of drift of a model run on a class"
        )
        base.add_argument("--from", dest="start", required=True, help="first UTC day, 2026-05-01")
        base.add_argument("--to", dest="end", required=True, help="last UTC day")
        line = verbs.add_parser(
            "calibrate", help="fit the estimate of accuracy of a model run on a class anew"
        )
        for one in (base, line):
            one.add_argument("mid", help="16 hex digits of the model run")
            one.add_argument("device_class", help="device class, as the device list names it")
        verbs.add_parser("compact", help="compact the hours that are due, as the workers do each minute")
        verbs.add_parser("cool", help="export raw days past retention to the cold tier, then drop them")
        again = verbs.add_parser("replay", help="send refused messages through the pipeline once more")
        again.add_argument("--code", required=True, help="under which they were refused: format_unknown, ...")
        again.add_argument("--device", default="", help="of this device only")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            if options["verb"] == "compact":
                self.stdout.write(f"compacted {self._compact(now)} hours")
                return
            if options["verb"] == "cool":
                self._cool(now)
                return
            if options["verb"] == "baseline":
                self._baseline(options, now)
                return
            if options["verb"] == "calibrate":
                self._calibrate(options, now)
                return
            if options["verb"] == "replay":
                self._replay(options, now)
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

    def _cool(self, now: datetime) -> None:
        if not cold.is_on():
            raise CommandError("not_set_up: FLEET_COLD_DIR is not set, so there is no cold tier")
        for name in retention.cool_expired(now):
            self.stdout.write(f"{name} is in the cold tier")
        self.stdout.write(f"dropped {len(retention.drop_expired(now))} partitions")
        failed = ColdPart.objects.exclude(problem="").order_by("name").first()
        if failed is not None:
            raise CommandError(f"cold_export_failed: {failed.name}: {failed.problem}")

    def _baseline(self, options: dict[str, Any], now: datetime) -> None:
        start, end = _days(options, now)
        try:
            for run in _runs(options):
                n = baselines.take(run.pk, options["device_class"], start, end, actor=ACTOR, now=now)
                self.stdout.write(f"{run.model} {run.version}: {n:,} inferences are the reference")
        except TelemetryError as error:
            raise CommandError(f"{error.code}: {error.text}") from error

    def _calibrate(self, options: dict[str, Any], now: datetime) -> None:
        try:
            for run in _runs(options):
                line, found = calibrations.take(run.pk, options["device_class"], actor=ACTOR, now=now)
                self.stdout.write(
                    f"{run.model} {run.version}: {LINES[found].format(line.made_at)} from {line.n:,}"
                    f" {line.kind} labels of {line.devices:,} devices: {line.intercept:+.3f}"
                    f" {line.slope:+.3f} x confidence"
                )
        except TelemetryError as error:
            raise CommandError(f"{error.code}: {error.text}") from error

    def _replay(self, options: dict[str, Any], now: datetime) -> None:
        try:
            done = replay.replay(
                Reader(installation_id()), options["code"], actor=ACTOR, now=now, device_id=options["device"]
            )
        except (TelemetryError, DeviceError, SealError) as error:
            raise CommandError(f"{error.code}: {error.text}") from error
        self.stdout.write(
            f"{done.taken:,} of {done.seen:,} messages are stored: {done.windows:,} windows,"
            f" {done.inferences:,} inferences, {done.sketches:,} sketches, {done.events:,} events;"
            f" {done.duplicates:,} windows were there already"
        )
        for code, count in done.refused.most_common():
            self.stdout.write(f"{count:,} stay, refused as {code}")

    def _compact(self, now: datetime) -> int:
        done = 0
        while n := compaction.run(now):
            done += n
        return done


def _runs(options: dict[str, Any]) -> list[Version]:
    runs = list(Version.objects.filter(mid=options["mid"].lower()))
    if not runs:
        raise CommandError(f"not_found: no model run {options['mid'][:32]} ever reported")
    return runs


def _range(options: dict[str, Any], now: datetime) -> tuple[datetime, datetime]:
    """As `_days`, of what raw rows are kept of."""
    start, end = _days(options, now)
    oldest = partitions.day_of(partitions.raw_from(now))
    if start.date() < oldest:
        raise CommandError(f"raw_expired: raw rows are kept 30 days, from {oldest:%Y-%m-%d} on")
    return start, end


def _days(options: dict[str, Any], now: datetime) -> tuple[datetime, datetime]:
    """[first day, day after the last), from the arguments."""
    today = partitions.day_of(now)
    try:
        first = date.fromisoformat(options["start"]) if options["start"] else today - DAY
        last = date.fromisoformat(options["end"]) if options["end"] else today
    except ValueError as error:
        raise CommandError(f"range_invalid: a day is written 2026-05-01: {error}") from error
    if first > last:
        raise CommandError("range_invalid: --from is after --to")
    return _midnight(first), _midnight(last) + DAY


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
