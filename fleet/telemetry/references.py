"""References of single devices' drift: made of windows that devices sent, kept, read back.

    week, chosen   the run's first week on the class, or the range that a person took instead (`baselines.py`)
    peers          until then: the newest windows of the run's devices on the class, later only ones that were
                   judged and not flagged

A run in the first week of its rollout has no past, and that is when drift has to be seen. Its devices are
then compared with each other: what a minority of them does stands out, what all of them do at once does not,
and wherever a comparison is shown its kind of reference is too. The design names the calibration set here;
no manifest carries its moments, and devices of the class are closer to a device than a laptop's recordings.

Devices are picked by a hash of their names and windows by one of their numbers, so a reference costs the same
in a fleet of a hundred thousand: at most MOST_DEVICES x MOST_OF_EACH rows, each found by its key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
from django.db import connection

from fleet.telemetry import partitions, psi, shifts
from fleet.telemetry.drift_models import DriftReference
from fleet.telemetry.shifts import Mix, Reference, Seen, UsualMoments

WEEK, CHOSEN, PEERS = "week", "chosen", "peers"
MOST_DEVICES: Final = 200
MOST_OF_EACH: Final = 10
LEAST_PEERS: Final = 20
"""Devices that are compared with each other at least. Fewer may by chance be alike, and not like the rest: a
draw of 16 called 23 of 100 clean devices drifting.
"""
PEERS_BACK: Final = timedelta(days=1)
PEERS_AGE: Final = timedelta(hours=1)
"""How old a reference of peers grows before it is made anew."""
_MIXES: Final = ("classes", "distances")
_DEVICES: Final = """
    SELECT t.device_id FROM tele_device_day t JOIN devices_device d ON d.id = t.device_id
    WHERE t.day >= %(first_day)s AND t.day <= %(last_day)s AND t.version_id = %(version_id)s
        AND d.device_class_id = %(device_class)s
    GROUP BY t.device_id ORDER BY md5(t.device_id) LIMIT %(devices)s
"""
_WINDOWS: Final = f"""
    SELECT x.device_id, s.n, s.body FROM ({_DEVICES}) x CROSS JOIN LATERAL (
        SELECT t.n, t.body FROM tele_sketch t
        WHERE t.device_id = x.device_id AND t.version_id = %(version_id)s AND t.n >= %(least)s
            AND t.ts > %(start)s AND t.ts <= %(end)s AND (NOT %(is_judged)s OR EXISTS (
                SELECT 1 FROM tele_drift f WHERE f.device_id = t.device_id AND f.ts = t.ts AND f.seq = t.seq
                    AND f.worst <= 1
            ))
        ORDER BY CASE WHEN NOT %(is_peers)s THEN md5(t.seq::text) END, t.ts DESC
        LIMIT %(of_each)s
    ) s
"""  # noqa: S608 - put together from constants


def ensure_peers(version_id: int, device_class: str, *, now: datetime) -> tuple[Reference, str] | None:
    """The reference to judge by now: the kept one, or peers made anew when they are due.

    None as long as too few devices of the run on the class sent windows.
    """
    row = DriftReference.objects.filter(version_id=version_id, device_class=device_class).first()
    if row is not None and (row.kind != PEERS or now - row.made_at < PEERS_AGE):
        return unpacked(row.body, row), row.kind
    start, is_first = now - PEERS_BACK, row is None
    made = make(version_id, device_class, start, now, kind=PEERS, now=now, is_judged=not is_first)
    if made is not None:
        return made, PEERS
    return (unpacked(row.body, row), row.kind) if row is not None else None


def make(
    version_id: int,
    device_class: str,
    start: datetime,
    end: datetime,
    *,
    kind: str,
    now: datetime,
    is_judged: bool = False,
) -> Reference | None:
    """Make the reference of windows that ended in (start, end], in place of the one before.

    is_judged: only of windows that were judged and not flagged, because what drifted must not become what is
    usual. None, and the one before stays, when there are too few windows or devices.
    """
    asked = {
        "version_id": version_id, "device_class": device_class, "start": start, "end": end,
        "first_day": _midnight(start), "last_day": _midnight(end), "least": psi.LEAST,
        "devices": MOST_DEVICES, "of_each": MOST_OF_EACH, "is_peers": kind == PEERS, "is_judged": is_judged,
    }  # fmt: skip
    found = shifts.reference_of(_windows(asked))
    if found is None or (kind == PEERS and found.devices < LEAST_PEERS):
        return None
    values = {
        "kind": kind, "started_at": start, "ended_at": end, "windows": found.windows,
        "devices": found.devices, "n": found.n, "body": packed(found), "made_at": now,
    }  # fmt: skip
    DriftReference.objects.update_or_create(version_id=version_id, device_class=device_class, defaults=values)
    return found


def _windows(asked: Mapping[str, Any]) -> list[tuple[str, Seen]]:
    with connection.cursor() as cursor:
        cursor.execute(_WINDOWS, asked)
        return [(device_id, shifts.seen_of(n, body_of(body))) for device_id, n, body in cursor.fetchall()]


def _midnight(moment: datetime) -> str:
    return f"{partitions.day_of(moment):%Y-%m-%d} 00:00:00+00"


def body_of(body: Any) -> Mapping[str, Any]:
    """The JSON of a sketch row, which a raw cursor of Django gives as text."""
    parsed: Mapping[str, Any] = json.loads(body) if isinstance(body, str) else body
    return parsed


def packed(found: Reference) -> dict[str, Any]:
    """A reference as JSON: arrays as lists, histograms up to the last bin in use."""
    body: dict[str, Any] = {"confidence": found.confidence}
    body["moments"] = None
    if found.moments is not None:
        body["moments"] = {name: value.tolist() for name, value in vars(found.moments).items()}
    for name in _MIXES:
        mix: Mix | None = getattr(found, name)
        body[name] = None
        if mix is not None:
            bins = psi.bins_of(mix.counts)
            body[name] = {
                "counts": [int(one) for one in mix.counts[:bins]], "size": len(mix.counts),
                "centre": mix.centre, "spread": mix.spread, "typical_n": mix.typical_n,
            }  # fmt: skip
    return body


def unpacked(body: Mapping[str, Any], row: DriftReference) -> Reference:
    """What `packed` made; windows, devices and inferences are the row's."""
    parts: dict[str, Any] = {"confidence": body["confidence"]}
    if body["moments"] is not None:
        parts["moments"] = UsualMoments(**{name: np.array(row) for name, row in body["moments"].items()})
    for name in _MIXES:
        mix = body[name]
        if mix is None:
            parts[name] = None
            continue
        counts = np.zeros(mix["size"], dtype=np.int64)
        counts[: len(mix["counts"])] = mix["counts"]
        parts[name] = Mix(counts, mix["centre"], mix["spread"], mix["typical_n"])
    return Reference(row.windows, row.devices, row.n, **parts)
