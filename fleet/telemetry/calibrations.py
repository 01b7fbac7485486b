"""What mean confidence says of accuracy: a line of each model run on a device class, fitted and kept.

The line is fitted over devices, each one point: its mean top score against the share of its labels that
agreed, in the range that is the run's reference of drift. That range is quiet by definition, and an estimate
is given only while drift is quiet (`estimates.py`), so the line is used where it was made.

labels     `delayed` ones where enough devices have them: the truth. Only of samples that were taken one in N,
           or asked for; what was sampled for its low margin or its anomaly would make a model look worse than
           it is. Their own scores are what they are compared with. Else `proxy` ones, with the whole UTC days
           of the range, and whatever bias those have. Never both, and never `golden`: a self-test says
           nothing of accuracy in the field.
score      the mean top score of windows, in 1e-4 and of every inference. The design names the histogram of
           sketches: the same quantity in tenths, which no rollup of single devices has.

A line is made when its reference is, and again once a day until 31 days after the range, because labels come
up to 30 days late. Where fewer labels are found than it was made from it holds: retention took their samples
meanwhile. When the reference is of another range it ends, whatever is found there. Each that is new leaves an
audit row, and so does an end without another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from django.db import connection, transaction

from fleet.accounts import audit
from fleet.accounts.audit import SYSTEM, Actor
from fleet.telemetry.calibration_models import Calibration
from fleet.telemetry.errors import TelemetryError
from fleet.telemetry.lines import Line, fit

DELAYED, PROXY = "delayed", "proxy"
LEAST_DEVICES: Final = 8
LEAST_LABELS: Final = 25
"""Labels that each device of a fit has at least: 200 in all, as many as drift asks of a window."""
MOST_DEVICES: Final = 2_000
"""Devices of a fit, drawn by a hash of their names."""
MOST_RUNS: Final = 50
"""Lines that one call of `ensure` makes."""
AGAIN: Final = timedelta(days=1)
LATE: Final = timedelta(days=31)
_LOCK: Final = 0x7E1E_0006


class Found(Enum):
    """What the labels of a range say of the line that is kept: there is another one, or it holds because they
    say the same, or because they are fewer than it was made from.
    """

    NEW, SAME, FEWER = "new", "same", "fewer"


_DELAYED: Final = """
    SELECT l.device_id, avg(i.score) / 1e4, avg((l.label = l.top)::int), count(*)
    FROM tele_label l JOIN tele_inference i
        ON i.device_id = l.device_id AND i.sample = l.sample AND i.ts = l.ts
    WHERE l.state = 'counted' AND l.ts >= %(start)s AND l.ts < %(end)s AND l.version_id = %(version_id)s
        AND l.device_class = %(device_class)s AND i.why IN (0, 3)
    GROUP BY 1 HAVING count(*) >= %(least)s ORDER BY md5(l.device_id) LIMIT %(most)s
"""
_PROXY: Final = """
    SELECT t.device_id, sum(t.score_sum)::float8 / 1e4 / sum(t.n), sum(t.lab_ok)::float8 / sum(t.lab_n),
        sum(t.lab_n)
    FROM tele_device_day t JOIN devices_device d ON d.id = t.device_id
    WHERE t.day >= %(start)s AND t.day + interval '1 day' <= %(end)s AND t.version_id = %(version_id)s
        AND d.device_class_id = %(device_class)s
    GROUP BY 1 HAVING sum(t.lab_n) >= %(least)s ORDER BY md5(t.device_id) LIMIT %(most)s
"""
_DUE: Final = """
    SELECT b.version_id, b.device_class, b.started_at, b.ended_at
    FROM (
        SELECT DISTINCT ON (version_id, device_class) version_id, device_class, started_at, ended_at
        FROM tele_baseline ORDER BY version_id, device_class, made_at DESC
    ) b
    LEFT JOIN tele_calibration c ON c.version_id = b.version_id AND c.device_class = b.device_class
    WHERE c.tried_at IS NULL OR (c.started_at, c.ended_at) <> (b.started_at, b.ended_at)
        OR (c.tried_at <= %(again)s AND b.ended_at > %(late)s)
    ORDER BY c.tried_at NULLS FIRST, 1, 2 LIMIT %(most)s
"""


def ensure(now: datetime) -> int:
    """Make the lines that are due, at most MOST_RUNS; returns how many say something new."""
    with connection.cursor() as cursor:
        cursor.execute(_DUE, {"again": now - AGAIN, "late": now - LATE, "most": MOST_RUNS})
        due = cursor.fetchall()
    made = [_make(*one, actor=SYSTEM, now=now) for one in due]
    return sum(found is Found.NEW and line.devices > 0 for line, found in made)


def take(version_id: int, device_class: str, *, actor: Actor, now: datetime) -> tuple[Calibration, Found]:
    """Make the line of a run on a class anew from the labels that its reference's range has by now; the line
    that holds, and whether it is a new one.

    Raises TelemetryError `no_baseline` without a reference, `uncalibrated` when no line holds: there are too
    few labels, and the line before was of another range or there was none.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT started_at, ended_at FROM tele_baseline WHERE version_id = %s AND device_class = %s"
            " ORDER BY made_at DESC LIMIT 1",
            [version_id, device_class],
        )
        row = cursor.fetchone()
    if row is None:
        raise TelemetryError("no_baseline", "the run has no reference on this class yet")
    line, found = _make(version_id, device_class, *row, actor=actor, now=now)
    if not line.devices:
        raise TelemetryError(
            "uncalibrated",
            f"fewer than {LEAST_DEVICES} devices have {LEAST_LABELS} labels in the range of the reference",
        )
    return line, found


def _make(
    version_id: int, device_class: str, start: datetime, end: datetime, *, actor: Actor, now: datetime
) -> tuple[Calibration, Found]:
    """Fit and keep; the line that holds then, NEW for one of two workers."""
    about: dict[str, Any] = {"version_id": version_id, "device_class": device_class}
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        kind, rows = _labelled({**about, "start": start, "end": end})
        before = Calibration.objects.filter(**about).first() or Calibration(**about)
        values: dict[str, Any] = {"kind": "", "n": 0, "devices": 0, "made_at": None}
        if rows:
            line = fit([(confidence, accuracy) for _, confidence, accuracy, _ in rows])
            values = {**vars(line), "kind": kind, "n": sum(row[3] for row in rows), "made_at": now}
        found = Found.NEW
        if (before.started_at, before.ended_at) == (start, end):
            if _is_less(kind, values["n"], before):
                found = Found.FEWER
            elif all(getattr(before, name) == values[name] for name in values if name != "made_at"):
                found = Found.SAME
        if found is not Found.NEW:
            values = {}
        made, _ = Calibration.objects.update_or_create(
            **about, defaults={**values, "started_at": start, "ended_at": end, "tried_at": now}
        )
        if found is Found.NEW and (made.devices or before.devices):
            audit.record(
                actor=actor, verb="telemetry.calibration", subject_kind="telemetry",
                subject_id=f"run {version_id}", at=now,
                after={
                    "device_class": device_class, "from": start.isoformat(), "to": end.isoformat(),
                    "kind": made.kind, "n": made.n, "devices": made.devices,
                    **{name: round(getattr(made, name), 4) for name in ("slope", "intercept") if rows},
                },
            )  # fmt: skip
    return made, found


def _is_less(kind: str, n: int, before: Calibration) -> bool:
    """Whether fewer labels of the range are found than before: retention took their samples meanwhile."""
    better = ("", PROXY, DELAYED).index
    return (better(kind), n) < (better(before.kind), before.n)


def _labelled(asked: dict[str, Any]) -> tuple[str, list[tuple[str, float, float, int]]]:
    """(kind, [(device, confidence, accuracy, labels)]) of the better kind that enough devices have."""
    for kind, sql in ((DELAYED, _DELAYED), (PROXY, _PROXY)):
        with connection.cursor() as cursor:
            cursor.execute(sql, {**asked, "least": LEAST_LABELS, "most": MOST_DEVICES})
            found = [(name, float(x), float(y), int(n)) for name, x, y, n in cursor.fetchall()]
        if len(found) >= LEAST_DEVICES:
            return kind, found
    return "", []


def lines(groups: Iterable[tuple[int, str]]) -> dict[tuple[int, str], tuple[Line, Calibration]]:
    """The lines of these (version id, device class), and what is stored of each; those without are absent."""
    wanted = set(groups)
    rows = Calibration.objects.filter(version_id__in={one[0] for one in wanted}, devices__gt=0)
    names = Line.__dataclass_fields__
    return {
        key: (Line(**{name: getattr(row, name) for name in names}), row)
        for row in rows
        if (key := (row.version_id, row.device_class)) in wanted
    }
