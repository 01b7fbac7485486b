"""Sketches of real wear, encoded by the shipped C and sent through ingest as a fleet would."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from device_firmware.host import build
from fleet.devices.models import Device
from fleet.mqtt.codec.sketch import Sketch
from fleet.mqtt.codec.telemetry import encode_batch, parse_batch
from fleet.telemetry.ingest import Delivery, store
from tests.firmware.stages import Stages
from tests.telemetry.batches import MID as MID
from tests.telemetry.batches import make_batch
from tests.telemetry.worn import Wearer

QUARTER: Final = timedelta(minutes=15)
N: Final = 300
"""Inferences of a window."""
EVERY: Final = 3


@functools.cache
def _sketch(device: int, fault: str, turn: int) -> Sketch:
    assert build.load()
    wearer = Wearer(device, every=EVERY)
    for _ in range(turn):
        wearer.rows(N)
    return wearer.sketch(Stages(), N, fault)


def send(
    ids: Sequence[str],
    end: datetime,
    *,
    windows: int,
    fault: str = "none",
    mid: str = MID,
    version: str = "1.0.0",
    order: Sequence[str] = (),
) -> None:
    """The last windows of these devices, a quarter of an hour each, the newest ending at `end`.

    order: which device wears what, by its place; else by the number at the end of its name.
    """
    deliveries = []
    for device_id in ids:
        device = order.index(device_id) if device_id in order else int(device_id[-3:])
        for back in range(windows):
            at = end - back * QUARTER
            turn = int(at.timestamp()) // 900 % 4
            one = replace(_sketch(device, fault, turn), dt_ms=900_000, duration_s=900, golden=None)
            first = int(at.timestamp()) // 60 & 0xFFFFFF
            batch = make_batch(
                at - QUARTER, 1, boot=2, first=first, mid=mid, version=version, n=N, dt_ms=900_000
            )
            sent = encode_batch(batch._replace(sketches=(one,)))
            deliveries.append(Delivery(device_id, parse_batch(sent)))
    store(deliveries, slot=0, now=end)
    Device.objects.filter(pk__in=ids).update(last_seen_at=end)
