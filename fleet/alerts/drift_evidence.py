"""Why a drift alert fires: which statistics and channel, what confidence says, whether it is one version.

Read from the windows the alert rests on, the last of each device it names; nothing is judged here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from django.db import connection

from fleet.alerts import kinds
from fleet.alerts.findings import Finding
from fleet.alerts.kinds import KINDS
from fleet.alerts.models import Rule

STATISTICS: Final = ("input", "class", "distance")
_WINDOWS: Final = """
    SELECT x.device_id, t.ts, t.confidence, t.channel, t.moment, t.reference, t.input,
        t.class_psi / nullif(t.class_limit, 0) AS class,
        t.distance_psi / nullif(t.distance_limit, 0) AS distance, r.body->>'confidence' AS usual, t.worst
    FROM unnest(%(ids)s::text[]) x (device_id) JOIN tele_device_last l ON l.device_id = x.device_id
    CROSS JOIN LATERAL (
        SELECT * FROM tele_drift t
        WHERE t.device_id = x.device_id AND t.version_id = l.version_id AND t.ts > %(since)s
            AND t.ts <= %(now)s
        ORDER BY t.ts DESC, t.seq DESC LIMIT %(windows)s
    ) t LEFT JOIN tele_drift_reference r
        ON r.version_id = t.version_id AND r.device_class = t.device_class
"""
Row = dict[str, Any]


def explained(found: Sequence[Finding], rule: Rule, *, now: datetime) -> list[Finding]:
    """The findings, those that fire with their reasons beside their figures.

    Evidence added: statistics {name: devices with enough windows above the threshold}, channel and moment of
    the input that moved most often, confidence now and as usual (None when unknown), since when (and from
    when on anything was looked at), the kind of reference, and of a part of the fleet versions: how many
    model runs of its class fire at once.
    """
    firing = [one for one in found if one.is_firing]
    ids = sorted({device_id for one in firing for device_id in one.evidence["devices"]})
    windows = _windows(ids, now) if ids else {}
    runs = Counter(one.device_class for one in firing if one.is_fleet)
    made = []
    for one in found:
        if not one.is_firing:
            made.append(one)
            continue
        rows = [windows.get(device_id, []) for device_id in one.evidence["devices"]]
        more = _reasons(rows, rule.threshold)
        if one.is_fleet:
            more["versions"] = runs[one.device_class]
        made.append(replace(one, evidence={**one.evidence, **more}))
    return made


def _windows(ids: Sequence[str], now: datetime) -> dict[str, list[Row]]:
    asked: dict[str, Any] = {
        "ids": list(ids),
        "now": now,
        "since": now - KINDS["drift"].span,
        "windows": kinds.WINDOWS,
    }
    found: dict[str, list[Row]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_WINDOWS, asked)
        names = [column[0] for column in cursor.description]
        for values in cursor.fetchall():
            row = dict(zip(names, values, strict=True))
            found.setdefault(row["device_id"], []).append(row)
    return found


def _reasons(devices: Sequence[Sequence[Row]], threshold: float) -> dict[str, Any]:
    flagged = [row for rows in devices for row in rows if row["worst"] > threshold]
    everything = [row for rows in devices for row in rows]
    statistics = {
        name: sum(
            sum((row[name] or 0) > threshold for row in rows) >= kinds.WINDOWS_FIRING for rows in devices
        )
        for name in STATISTICS
    }
    moved = Counter((row["channel"], row["moment"]) for row in flagged if (row["input"] or 0) > threshold)
    channel, moment = moved.most_common(1)[0][0] if moved else (None, None)
    return {
        "statistics": {name: n for name, n in statistics.items() if n},
        "channel": channel,
        "moment": moment,
        "confidence": _mean([row["confidence"] for row in flagged]),
        "confidence_usual": _mean([row["usual"] for row in everything]),
        **({"from": min(row["ts"] for row in everything).isoformat()} if everything else {}),
        "since": min(row["ts"] for row in flagged).isoformat() if flagged else None,
        "reference": everything[0]["reference"] if everything else "",
    }


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None
