"""A real core and the gap table: what the ring holds is repaired, what it does not hold any more is lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fleet.devices import classes, timeline
from fleet.devices.models import Device
from fleet.mqtt.codec.names import Action, CommandVerb, ConfigKey
from fleet.mqtt.codec.telemetry import Batch
from fleet.telemetry import gaps, ingest
from fleet.telemetry.gap_models import Boot, Gap
from fleet.telemetry.ingest import Delivery
from ota.desired import DesiredEntry
from tests.firmware.artifacts import DEVICE, INSTALLATION, artifact
from tests.firmware.rig import Rig

pytestmark = pytest.mark.django_db
LATER = timedelta(seconds=61)


@pytest.fixture
def running(rig: Rig) -> Rig:
    """A device with a confirmed model and windows of 10 s, which the backend knows."""
    item = artifact(1)
    rig.stage(item)
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=1), config={ConfigKey.WINDOW_S: 10})
    rig.confirm()
    rig.advance(20)
    classes.ensure_default_classes(clock(rig))
    Device.objects.create(id=DEVICE, device_class_id="host-a", enrolled_at=clock(rig), presence="online")
    return rig


def clock(rig: Rig) -> datetime:
    return datetime.fromtimestamp(rig.unix, UTC)


def store(rig: Rig, batches: list[Batch]) -> None:
    ingest.store([Delivery(DEVICE, batch) for batch in batches], slot=0, now=clock(rig))


def turn(rig: Rig) -> None:
    gaps.run(clock(rig) + LATER, installation_id=INSTALLATION)


def ask(rig: Rig) -> list[Batch]:
    """One command over all open gaps; what the device sends upon it."""
    pending = list(Gap.objects.filter(state="open").order_by("first"))
    before = len(rig.batches())
    rig.command(CommandVerb.RESEND_TELEMETRY, pending[0].boot, pending[0].first, pending[-1].last)
    for event in rig.events():
        timeline.record_event(DEVICE, event, now=clock(rig))
    return rig.batches()[before:]


def test_what_the_ring_holds_is_repaired(running: Rig) -> None:
    for _ in range(12):
        running.infer(2)
        running.advance(10)
    batches = running.batches()
    lost = {2, 3, 7}
    store(running, [batch for n, batch in enumerate(batches) if n not in lost])
    turn(running)
    assert [(gap.first, gap.last, gap.state) for gap in Gap.objects.order_by("first")] == [
        (batches[2].first, batches[4].first - 1, "open"),
        (batches[7].first, batches[8].first - 1, "open"),
    ]
    again = ask(running)
    assert [batch.first for batch in again] == [batch.first for batch in batches[2:8]]
    store(running, again)
    turn(running)
    boot = Boot.objects.get()
    assert (boot.received, boot.unsettled_at) == (boot.highest + 1, None)
    assert set(Gap.objects.values_list("state", flat=True)) == {"repaired"}


def test_what_the_ring_lost_is_lost_with_its_cause(running: Rig) -> None:
    for _ in range(600):
        running.infer(1)
        running.advance(10, step_ms=5000)
    batches = running.batches()
    held = running.core.state().ring_batches
    assert len(batches) > held + 10
    lost = {0, 4, len(batches) - 3}
    store(running, [batch for n, batch in enumerate(batches) if n not in lost])
    turn(running)
    store(running, ask(running))
    turn(running)
    assert [(gap.first, gap.state, gap.cause) for gap in Gap.objects.order_by("first")] == [
        (batches[0].first, "lost", "not_held"),
        (batches[4].first, "lost", "not_held"),
        (batches[-3].first, "repaired", ""),
    ]
