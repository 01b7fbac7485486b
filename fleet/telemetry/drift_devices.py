"""Which devices drift now, by model run and class: read from what was judged (`judging.py`), for people.

A device counts by the model run it runs now and its newest OF windows of the last day; it drifts when at
least MANY of them are flagged, exactly as the alert rule sees it at its default threshold.
"""

# ruff: noqa: S608 - statements are put together from constants of this module only

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection

from fleet.recent import recent
from fleet.telemetry.psi import MANY, OF

SPAN: Final = timedelta(days=1)
MOST_PARTS: Final = 200
FRESH_S: Final = 30
KEPT_S: Final = 300
"""How old `parts` may be when reading them takes long; a device sends a sketch in a quarter of an hour."""
_JUDGED: Final = f"""
    SELECT d.id AS device_id, d.device_class_id AS device_class, l.version_id, f.*
    FROM devices_device d JOIN tele_device_last l ON l.device_id = d.id CROSS JOIN LATERAL (
        SELECT count(*) AS judged, count(*) FILTER (WHERE t.worst > 1) AS flagged,
            count(*) FILTER (WHERE t.input > 1) AS input_n,
            count(*) FILTER (WHERE t.class_psi > t.class_limit) AS class_n,
            count(*) FILTER (WHERE t.distance_psi > t.distance_limit) AS distance_n,
            max(t.worst) AS worst, avg(t.confidence) AS confidence, max(t.ts) AS newest,
            min(t.ts) FILTER (WHERE t.worst > 1) AS since
        FROM (
            SELECT * FROM tele_drift t
            WHERE t.device_id = d.id AND t.version_id = l.version_id AND t.ts > %(since)s AND t.ts <= %(now)s
            ORDER BY t.ts DESC, t.seq DESC LIMIT {OF}
        ) t
    ) f WHERE d.retired_at IS NULL
"""
_PARTS: Final = f"""
    SELECT j.device_class, v.model, v.version, v.mid, count(*) AS devices,
        count(*) FILTER (WHERE j.judged >= {MANY}) AS judged,
        count(*) FILTER (WHERE j.flagged >= {MANY}) AS drifting,
        count(*) FILTER (WHERE j.input_n >= {MANY}) AS input,
        count(*) FILTER (WHERE j.class_n >= {MANY}) AS class,
        count(*) FILTER (WHERE j.distance_n >= {MANY}) AS distance,
        avg(j.confidence) AS confidence,
        avg(j.confidence) FILTER (WHERE j.flagged >= {MANY}) AS confidence_drifting,
        r.kind AS reference, r.made_at, r.windows AS reference_windows, r.devices AS reference_devices,
        (r.body->>'confidence')::float8 AS confidence_usual
    FROM ({_JUDGED}) j JOIN tele_version v ON v.id = j.version_id
    LEFT JOIN tele_drift_reference r ON r.version_id = j.version_id AND r.device_class = j.device_class
    GROUP BY j.device_class, v.id, r.kind, r.made_at, r.windows, r.devices, r.body
    ORDER BY drifting DESC, v.model, v.id DESC, j.device_class LIMIT {MOST_PARTS}
"""
_DEVICES: Final = f"""
    SELECT j.*, n.input, n.channel, n.moment, n.class_psi, n.class_limit, n.distance_psi, n.distance_limit,
        n.n
    FROM ({_JUDGED}) j JOIN tele_version v ON v.id = j.version_id
    JOIN tele_drift n ON n.device_id = j.device_id AND n.ts = j.newest AND n.version_id = j.version_id
    WHERE j.judged > 0 AND v.mid = %(mid)s AND j.device_class = %(device_class)s
    ORDER BY (j.flagged >= {MANY}) DESC, j.worst DESC, j.device_id LIMIT %(limit)s
"""


@dataclass(frozen=True)
class Part:
    """One model run on one device class.

    devices: that run it. judged: those with enough windows to say. drifting: those that do; input, class_ and
    distance: by that statistic. Confidences are means in [0, 1], None when unknown. reference: its kind, None
    while there is none.
    """

    device_class: str
    model: str
    version: str
    mid: str
    devices: int
    judged: int
    drifting: int
    input: int
    class_: int
    distance: int
    confidence: float | None
    confidence_drifting: float | None
    reference: str | None
    made_at: datetime | None
    reference_windows: int | None
    reference_devices: int | None
    confidence_usual: float | None


@dataclass(frozen=True)
class Judged:
    """One device: how many of its newest windows were judged and flagged, and what the newest one gave.

    input: ratio to its limit, of this channel and moment. since: end of the first flagged one of them.
    """

    device_id: str
    judged: int
    flagged: int
    confidence: float | None
    newest: datetime
    since: datetime | None
    input: float | None
    channel: int | None
    moment: int | None
    class_psi: float | None
    class_limit: float | None
    distance_psi: float | None
    distance_limit: float | None
    n: int

    @property
    def is_drifting(self) -> bool:
        """Whether enough of its windows are flagged."""
        return self.flagged >= MANY


def parts(now: datetime) -> tuple[list[Part], datetime]:
    """What runs on each class, drifting ones first, at most MOST_PARTS; and of when that is: now, or up to
    KEPT_S ago.
    """
    return recent("drift-parts", _parts, now=now, fresh_s=FRESH_S, kept_s=KEPT_S)


def _parts(now: datetime) -> list[Part]:
    return [
        Part(**{("class_" if name == "class" else name): value for name, value in row.items()})
        for row in _rows(_PARTS, {"now": now, "since": now - SPAN})
    ]


def devices(mid: str, device_class: str, *, now: datetime, limit: int) -> list[Judged]:
    """Devices of a model run and class with a judged window, drifting ones first, then by excess."""
    names = Judged.__dataclass_fields__
    asked = {"mid": mid, "device_class": device_class, "now": now, "since": now - SPAN, "limit": limit}
    return [Judged(**{name: row[name] for name in names}) for row in _rows(_DEVICES, asked)]


def _rows(sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
