"""What a rollout over many devices does: everything once, in bounded batches, and again after a kill."""

from typing import Any

import pytest

from ota import starting
from tests.bench import scale_steps
from tests.stack.services import Broker

DEVICES = 1_000


@pytest.mark.django_db(transaction=True)
def test_a_thousand_devices_are_frozen_offered_and_told_in_bounded_batches(
    broker: Broker, now: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(starting, "BATCH", 300)
    found = scale_steps.run(DEVICES, now=now, offers=DEVICES)
    assert found["preflight"]["state"] == "awaiting_approval", found["preflight"]["why"]
    assert found["preflight"]["eligible"] == DEVICES
    assert found["start: carried out"]["rows"] == DEVICES
    assert found["start: carried out"]["most_rows_a_transaction"] == 300
    assert found["ticks: offers"]["jobs"] == {"confirmed": DEVICES}
    assert found["ticks: offers"]["published"] == DEVICES
    assert found["documents: signed and published"]["documents"] == DEVICES
