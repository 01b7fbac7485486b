"""Desired documents: counters that rise, bytes that repeat, publishing that may be killed anywhere."""

import threading
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction

from fleet.accounts.models import AuditEvent
from fleet.devices.models import DeviceSlot, Presence
from fleet.mqtt import topics
from fleet.mqtt.client import BackendClient, MqttError
from fleet.mqtt.codec.names import Action
from ota import delivery, keys
from ota.delivery import DeliveryError
from ota.desired import NO_DIGEST, Desired, verify_desired
from ota.models import DesiredState
from tests.stack.services import Broker

TARGET = "ab" * 32


def job(device: Any, *, target: str = TARGET, attempt: int = 1, slot: int = 0) -> Any:
    """As much of a rollout's job as delivery reads."""
    return SimpleNamespace(pk=uuid4(), device_id=device.pk, slot=slot, target=target, attempt=attempt)


def retained(device: Any) -> bytes:
    with BackendClient("test").connect() as client:
        topic = topics.desired(device.pk)
        return client.read_retained(topic, expect=1, timeout_s=10).get(topic, b"")


def accepted(device: Any, installation: bytes, message: bytes, **given: Any) -> Desired:
    trust, _ = keys.current_trust()
    return verify_desired(message, device_id=device.pk, installation_id=installation, trust=trust, **given)


def test_an_offer_reaches_the_broker_signed_for_its_device(
    broker: Broker, installation: bytes, make_device: Any, now: Any
) -> None:
    device = make_device("offer-1")
    made = job(device, attempt=3)
    counters = delivery.offer([made], now=now, deadlines={made.pk: now + timedelta(hours=1)})
    assert delivery.publish_pending() == delivery.Published(1, False)
    document = accepted(device, installation, retained(device))
    assert document.counter == counters[made.pk]
    entry = document.entries[0]
    assert (entry.action, entry.manifest_id.hex(), entry.attempt) == (Action.RUN, TARGET, 3)
    assert entry.deadline == int((now + timedelta(hours=1)).timestamp())
    assert document.expires == int((now + delivery.LIFETIME).timestamp())
    assert delivery.publish_pending() == delivery.Published(0, False)


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
    document = delivery.document(DesiredState.objects.get(pk=device.pk))
    assert {slot: entry.manifest_id.hex() for slot, entry in document.entries.items()} == {
        0: TARGET,
        1: "cd" * 32,
    }
    assert document.config == {1: 5, 5: [3, 5]}
    delivery.set_config([device.pk], {5: None}, now=now)
    assert delivery.document(DesiredState.objects.get(pk=device.pk)).config == {1: 5}
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
        delivery.document(DesiredState.objects.get(pk=device.pk)).entries for device in (running, empty)
    ]
    assert (entries[0][0].action, entries[0][0].manifest_id.hex()) == (Action.RUN, manifest.pk)
    assert (entries[1][0].action, entries[1][0].manifest_id) == (Action.STOP, NO_DIGEST)
    assert DesiredState.objects.get(pk=foreign.pk).entries == {}


def test_a_revert_asks_for_the_other_bank_and_stops_a_slot_that_was_empty(make_device: Any, now: Any) -> None:
    device, first = make_device("revert-1"), make_device("revert-2")
    delivery.revert([job(device, attempt=2), job(first, target="", attempt=2)], now=now)
    entry = delivery.document(DesiredState.objects.get(pk=device.pk)).entries[0]
    assert (entry.action, entry.manifest_id.hex(), entry.attempt) == (Action.RUN_OTHER_BANK, TARGET, 2)
    assert delivery.document(DesiredState.objects.get(pk=first.pk)).entries[0].action == Action.STOP


def test_publishing_again_repeats_the_same_bytes(
    broker: Broker, installation: bytes, make_device: Any, now: Any
) -> None:
    device = make_device("again-1")
    delivery.offer([job(device)], now=now)
    delivery.publish_pending()
    first = retained(device)
    with BackendClient("test").connect() as client:
        client.publish_all([(topics.desired(device.pk), b"")], deadline_s=10)
    assert retained(device) == b""
    assert delivery.publish_everything_again() == 1
    assert delivery.publish_pending().count == 1
    assert retained(device) == first
    # A killed publisher leaves a signed row that is not marked: its successor must not sign other bytes under
    # the same counter.
    DesiredState.objects.update(published_counter=0, message=None)
    delivery.publish_pending()
    assert retained(device) == first


def test_a_document_that_changed_while_it_was_published_stays_pending(
    broker: Broker, make_device: Any, now: Any
) -> None:
    device = make_device("race-1")
    delivery.offer([job(device)], now=now)

    class Racing:
        """Publishes like the broker's client, and lets a newer offer slip in before the acknowledgement."""

        def publish_all(self, items: Any, **given: Any) -> int:
            with BackendClient("test").connect() as client:
                count = client.publish_all(items, **given)
            delivery.offer([job(device, attempt=2)], now=now)
            return count

    published = delivery.publish_pending(client=Racing())  # type: ignore[arg-type]
    assert published == delivery.Published(1, True)
    row = DesiredState.objects.get(pk=device.pk)
    assert row.published_counter < row.counter
    assert delivery.publish_pending() == delivery.Published(1, False)


def test_publishing_goes_in_bounded_batches(broker: Broker, make_device: Any, now: Any) -> None:
    devices = [make_device(f"batch-{n}") for n in range(5)]
    delivery.offer([job(device) for device in devices], now=now)
    assert delivery.publish_pending(2) == delivery.Published(2, True)
    assert delivery.publish_pending(2) == delivery.Published(2, True)
    assert delivery.publish_pending(2) == delivery.Published(1, False)


def test_without_a_broker_nothing_is_marked_as_published(
    broker: Broker, make_device: Any, now: Any, settings: Any
) -> None:
    device = make_device("away-1")
    delivery.offer([job(device)], now=now)
    client = BackendClient("test")
    client.connect()
    client.close()
    with pytest.raises(MqttError) as caught:
        client.publish_all([(topics.desired(device.pk), b"x")], deadline_s=0.5)
    assert caught.value.code == "publish_timeout"
    with pytest.raises(MqttError):
        delivery.publish_pending(client=_Failing())  # type: ignore[arg-type]
    assert DesiredState.objects.get(pk=device.pk).published_counter == 0
    assert delivery.publish_pending().count == 1


class _Failing:
    def publish_all(self, items: Any, **given: Any) -> int:
        for _ in items:
            raise MqttError("publish_timeout", "gone")
        return 0


def test_documents_are_signed_anew_at_half_of_their_life(
    installation: bytes, make_device: Any, now: Any
) -> None:
    device = make_device("half-1")
    before = delivery.offer([job(device)], now=now).popitem()[1]
    assert delivery.sign_anew(now=now + delivery.LIFETIME * 0.49) == 0
    later = now + delivery.LIFETIME * 0.51
    assert delivery.sign_anew(now=later) == 1
    document = delivery.document(DesiredState.objects.get(pk=device.pk))
    assert document.counter > before
    assert document.issued == int(later.timestamp())
    assert document.entries[0].manifest_id.hex() == TARGET
    assert delivery.sign_anew(now=later) == 0


def test_a_device_that_reports_an_older_counter_gets_its_document_again(make_device: Any, now: Any) -> None:
    device = make_device("lost-1", presence=Presence.ONLINE)
    counter = delivery.offer([job(device)], now=now).popitem()[1]
    DesiredState.objects.update(published_counter=counter)
    later = now + 2 * delivery.REPAIR_AFTER
    assert delivery.repair() == 0, "no report since: no evidence"
    device.reported_at = later
    device.save(update_fields=["reported_at"])
    assert delivery.repair() == 1
    assert DesiredState.objects.get(pk=device.pk).published_counter == 0
    DesiredState.objects.update(published_counter=counter)
    device.desired_counter = counter
    device.save(update_fields=["desired_counter"])
    assert delivery.repair() == 0


def test_trust_is_published_as_newest_and_as_chain(broker: Broker, installation: bytes) -> None:
    assert delivery.publish_trust() == 2
    _, message = keys.current_trust()
    with BackendClient("test").connect() as client:
        found = client.read_retained("f1/trust/#", expect=2, timeout_s=10)
    assert found == {"f1/trust": message, "f1/trust/1": message}


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
