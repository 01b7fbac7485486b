"""Desired documents as rows: counters that rise, entries and configuration that are kept."""

import threading
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction

from fleet.accounts.models import AuditEvent
from fleet.devices.models import DeviceSlot
from fleet.mqtt.codec.names import Action
from ota import delivery, desired_rows
from ota.delivery import DeliveryError
from ota.desired import NO_DIGEST
from ota.models import DesiredState

TARGET = "ab" * 32


def job(device: Any, *, target: str = TARGET, attempt: int = 1, slot: int = 0) -> Any:
    """As much of a rollout's job as delivery reads."""
    return SimpleNamespace(pk=uuid4(), device_id=device.pk, slot=slot, target=target, attempt=attempt)


def test_the_counter_rises_with_a_clock_that_stands_still_and_above_what_was_reported(
    make_device: Any, now: Any
) -> None:
    device = make_device("count-1")
    seen = [delivery.offer([job(device, attempt=n)], now=now).popitem()[1] for n in range(1, 4)]
    assert seen == [seen[0], seen[0] + 1, seen[0] + 2]
    device.desired_counter = seen[-1] + 1000
    device.save(update_fields=["desired_counter"])
    assert delivery.offer([job(device, attempt=4)], now=now).popitem()[1] == seen[-1] + 1001


def test_a_device_whose_counters_are_burned_is_left_out_and_the_others_are_told(
    make_device: Any, now: Any
) -> None:
    burned = make_device("burned-1", desired_counter=2 << 40)
    well = make_device("burned-2")
    jobs = [job(burned), job(well)]
    assert set(delivery.offer(jobs, now=now)) == {jobs[1].pk}


def test_slots_and_configuration_are_kept_when_another_slot_changes(
    installation: bytes, make_device: Any, now: Any
) -> None:
    device = make_device("keep-1")
    delivery.set_config([device.pk], {1: 5, 5: (3, 5)}, now=now)
    delivery.offer([job(device, slot=0)], now=now)
    delivery.offer([job(device, slot=1, target="cd" * 32, attempt=2)], now=now)
    document = desired_rows.document(DesiredState.objects.get(pk=device.pk))
    assert {slot: entry.manifest_id.hex() for slot, entry in document.entries.items()} == {
        0: TARGET,
        1: "cd" * 32,
    }
    assert document.config == {1: 5, 5: [3, 5]}
    delivery.set_config([device.pk], {5: None}, now=now)
    assert desired_rows.document(DesiredState.objects.get(pk=device.pk)).config == {1: 5}
    assert AuditEvent.objects.filter(verb="config.set").count() == 2


def test_configuration_out_of_range_or_of_an_unknown_device_changes_nothing(
    make_device: Any, now: Any
) -> None:
    device = make_device("range-1")
    with pytest.raises(DeliveryError) as caught:
        delivery.set_config([device.pk], {1: 0}, now=now)
    assert caught.value.code == "config_invalid"
    with pytest.raises(DeliveryError) as caught:
        delivery.set_config([device.pk, "nobody"], {1: 60}, now=now)
    assert caught.value.code == "not_found"
    assert not DesiredState.objects.exclude(config={}).exists()


def test_a_withdrawal_names_what_the_device_runs_or_stops_an_empty_slot(
    make_device: Any, make_manifest: Any, now: Any
) -> None:
    running, empty, foreign = (make_device(f"back-{n}") for n in range(3))
    manifest = make_manifest()
    DeviceSlot.objects.create(device=running, slot=0, state="idle", run=manifest.id16, updated_at=now)
    DeviceSlot.objects.create(device=foreign, slot=0, state="idle", run="77" * 16, updated_at=now)
    jobs = [job(running), job(empty), job(foreign)]
    delivery.offer(jobs, now=now)
    delivery.withdraw(jobs, now=now)
    entries = [
        desired_rows.document(DesiredState.objects.get(pk=device.pk)).entries for device in (running, empty)
    ]
    assert (entries[0][0].action, entries[0][0].manifest_id.hex()) == (Action.RUN, manifest.pk)
    assert (entries[1][0].action, entries[1][0].manifest_id) == (Action.STOP, NO_DIGEST)
    assert DesiredState.objects.get(pk=foreign.pk).entries == {}


def test_a_revert_asks_for_the_other_bank_and_stops_a_slot_that_was_empty(make_device: Any, now: Any) -> None:
    device, first = make_device("revert-1"), make_device("revert-2")
    delivery.revert([job(device, attempt=2), job(first, target="", attempt=2)], now=now)
    entry = desired_rows.document(DesiredState.objects.get(pk=device.pk)).entries[0]
    assert (entry.action, entry.manifest_id.hex(), entry.attempt) == (Action.RUN_OTHER_BANK, TARGET, 2)
    assert desired_rows.document(DesiredState.objects.get(pk=first.pk)).entries[0].action == Action.STOP


def test_documents_are_signed_anew_at_half_of_their_life(
    installation: bytes, make_device: Any, now: Any
) -> None:
    device = make_device("half-1")
    before = delivery.offer([job(device)], now=now).popitem()[1]
    assert delivery.sign_anew(now=now + delivery.LIFETIME * 0.49) == 0
    later = now + delivery.LIFETIME * 0.51
    assert delivery.sign_anew(now=later) == 1
    document = desired_rows.document(DesiredState.objects.get(pk=device.pk))
    assert document.counter > before
    assert document.issued == int(later.timestamp())
    assert document.entries[0].manifest_id.hex() == TARGET
    assert delivery.sign_anew(now=later) == 0


@pytest.mark.django_db(transaction=True)
def test_concurrent_writers_lose_no_change_and_repeat_no_counter(make_device: Any, now: Any) -> None:
    device = make_device("many-1")
    counters: list[int] = []
    failures: list[BaseException] = []

    def work(slot: int) -> None:
        try:
            for attempt in range(1, 11):
                with transaction.atomic():
                    made = delivery.offer([job(device, slot=slot, attempt=attempt)], now=now)
                counters.extend(made.values())
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(set(counters)) == 40
    entries = DesiredState.objects.get(pk=device.pk).entries
    assert {slot: entry[4] for slot, entry in entries.items()} == {str(slot): 10 for slot in range(4)}
