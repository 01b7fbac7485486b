"""Publishing: signed once, repeated byte for byte, bounded, repaired."""

import os
import signal
from datetime import timedelta
from typing import Any

import pytest

from fleet.devices import inventory
from fleet.devices.models import Device, Presence
from fleet.mqtt import topics
from fleet.mqtt.client import BackendClient, MqttError
from fleet.mqtt.codec.names import Action
from ota import delivery, desired_rows, keys, publishing
from ota.desired import Desired, sign_desired, verify_desired
from ota.models import DesiredState
from tests.devices.makers import make_report
from tests.ota.test_delivery import TARGET, job
from tests.stack.services import Broker


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
    assert publishing.publish_pending() == publishing.Published(1, False)
    document = accepted(device, installation, retained(device))
    assert document.counter == counters[made.pk]
    entry = document.entries[0]
    assert (entry.action, entry.manifest_id.hex(), entry.attempt) == (Action.RUN, TARGET, 3)
    assert entry.deadline == int((now + timedelta(hours=1)).timestamp())
    assert document.expires == int((now + delivery.LIFETIME).timestamp())
    assert publishing.publish_pending() == publishing.Published(0, False)


def test_publishing_again_repeats_the_same_bytes(
    broker: Broker, installation: bytes, make_device: Any, now: Any
) -> None:
    device = make_device("again-1")
    delivery.offer([job(device)], now=now)
    publishing.publish_pending()
    first = retained(device)
    with BackendClient("test").connect() as client:
        client.publish_all([(topics.desired(device.pk), b"")], deadline_s=10)
    assert retained(device) == b""
    assert publishing.publish_everything_again() == 1
    assert publishing.publish_pending().count == 1
    assert retained(device) == first
    # A killed publisher leaves a signed row that is not marked: its successor must not sign other bytes under
    # the same counter.
    DesiredState.objects.update(published_counter=0, message=None)
    publishing.publish_pending()
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

    published = publishing.publish_pending(client=Racing())
    assert published == publishing.Published(1, True)
    row = DesiredState.objects.get(pk=device.pk)
    assert row.published_counter < row.counter
    assert publishing.publish_pending() == publishing.Published(1, False)


def test_what_devices_share_is_encoded_once_and_each_document_is_still_its_own(
    broker: Broker, installation: bytes, make_device: Any, now: Any
) -> None:
    now += timedelta(milliseconds=700)  # which no document carries
    devices = [make_device(f"own-{n}") for n in range(6)]
    jobs = [job(device, attempt=1 + n // 3, slot=n % 2) for n, device in enumerate(devices)]
    windows = {device.pk: [127, 60 * n, 30] for n, device in enumerate(devices[:2])}
    delivery.offer(jobs, now=now, windows=windows)
    delivery.set_config([devices[1].pk, devices[5].pk], {1: 60, 6: [1, 2, 3]}, now=now)
    assert publishing.publish_pending().count == 6
    signer = keys.online_signer()
    for row in DesiredState.objects.select_related("device"):
        whole = sign_desired(desired_rows.document(row), signer, installation_id=installation)
        assert bytes(row.message or b"") == whole == retained(row.device)
        assert accepted(row.device, installation, whole).config.get(6) == {
            "own-0": (127, 0, 30),
            "own-1": (1, 2, 3),  # what a person set goes before a rollout's window
            "own-5": (1, 2, 3),
        }.get(row.device_id)


def test_a_row_that_cannot_be_signed_does_not_keep_back_the_others(
    broker: Broker, make_device: Any, now: Any
) -> None:
    devices = [make_device(f"odd-{n}") for n in range(3)]
    delivery.offer([job(device) for device in devices], now=now)
    DesiredState.objects.filter(pk="odd-1").update(config={"1": 0})
    assert publishing.publish_pending() == publishing.Published(2, True)
    assert DesiredState.objects.get(pk="odd-1").published_counter == 0


def test_publishing_goes_in_bounded_batches(broker: Broker, make_device: Any, now: Any) -> None:
    devices = [make_device(f"batch-{n}") for n in range(5)]
    delivery.offer([job(device) for device in devices], now=now)
    assert publishing.publish_pending(2) == publishing.Published(2, True)
    assert publishing.publish_pending(2) == publishing.Published(2, True)
    assert publishing.publish_pending(2) == publishing.Published(1, False)


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
        publishing.publish_pending(client=_Failing())
    assert DesiredState.objects.get(pk=device.pk).published_counter == 0
    assert publishing.publish_pending().count == 1


class _Failing:
    def publish_all(self, items: Any, **given: Any) -> int:
        for _ in items:
            raise MqttError("publish_timeout", "gone")
        return 0


class _Partly:
    """Publishes the first of them with the broker's client, then fails as when the time is up."""

    def __init__(self, count: int, refused: frozenset[int] = frozenset()) -> None:
        self.count, self.refused = count, refused

    def publish_all(self, items: Any, **given: Any) -> int:
        with BackendClient("test").connect() as client:
            client.publish_all(list(items)[: self.count], **given)
        raise MqttError("publish_timeout", "late", acknowledged=self.count, refused=self.refused)


def test_only_what_the_broker_acknowledged_before_it_failed_counts_as_published(
    broker: Broker, make_device: Any, now: Any
) -> None:
    devices = [make_device(f"part-{n}") for n in range(5)]
    delivery.offer([job(device) for device in devices], now=now)
    with pytest.raises(MqttError):
        publishing.publish_pending(client=_Partly(3, refused=frozenset({1})))
    left = DesiredState.objects.filter(published_counter=0).order_by("pk")
    assert [row.device_id for row in left] == ["part-1", "part-3", "part-4"]
    assert publishing.publish_pending() == publishing.Published(3, False)


def test_batches_share_a_connection_and_survive_the_brokers_death_between_them(
    broker: Broker, make_device: Any, now: Any
) -> None:
    devices = [make_device(f"share-{n}") for n in range(4)]
    delivery.offer([job(device) for device in devices], now=now)
    with publishing.Connection() as connection:
        assert publishing.publish_pending(2, client=connection).count == 2
        os.kill(broker.supervisor.pid("mosquitto"), signal.SIGKILL)
        assert publishing.publish_pending(2, client=connection) == publishing.Published(2, False)
    assert retained(devices[3])


def test_a_device_that_reports_an_older_counter_gets_its_document_again(make_device: Any, now: Any) -> None:
    device = make_device("lost-1", presence=Presence.ONLINE)
    counter = delivery.offer([job(device)], now=now).popitem()[1]
    DesiredState.objects.update(published_counter=counter)
    later = now + 2 * publishing.REPAIR_AFTER
    assert publishing.repair() == 0, "no report since: no evidence"
    device.reported_at = device.report_made_at = later
    device.save(update_fields=["reported_at", "report_made_at"])
    assert publishing.repair() == 1
    assert DesiredState.objects.get(pk=device.pk).published_counter == 0
    DesiredState.objects.update(published_counter=counter)
    device.desired_counter = counter
    device.save(update_fields=["desired_counter"])
    assert publishing.repair() == 0


def told(device: Any, now: Any, n: int, made_at: Any) -> None:
    """A report of no document, made then by the device's clock, taken in now."""
    unix_s = int(made_at.timestamp()) if made_at else 0
    assert inventory.apply_report(device.pk, make_report(1, n, unix_s=unix_s), now=now)
    Device.objects.filter(pk=device.pk).update(presence=Presence.ONLINE)


def test_a_gateway_that_lags_is_no_evidence_that_a_document_was_lost(make_device: Any, now: Any) -> None:
    device = make_device("late-1", presence=Presence.ONLINE)
    counter = delivery.offer([job(device)], now=now).popitem()[1]
    DesiredState.objects.update(published_counter=counter)
    later = now + 10 * publishing.REPAIR_AFTER
    told(device, later, 1, now - timedelta(seconds=5))
    assert publishing.repair() == 0, "the device spoke before the document was issued"
    told(device, later, 2, now + 2 * publishing.REPAIR_AFTER)
    assert publishing.repair() == 1


@pytest.mark.parametrize("clock", [None, timedelta(days=-400), timedelta(hours=3)])
def test_a_device_whose_clock_says_nothing_is_taken_by_the_time_of_arrival(
    make_device: Any, now: Any, clock: timedelta | None
) -> None:
    device = make_device("late-2", presence=Presence.ONLINE)
    counter = delivery.offer([job(device)], now=now).popitem()[1]
    DesiredState.objects.update(published_counter=counter)
    told(device, now, 1, None if clock is None else now + clock)
    assert publishing.repair() == 0
    told(device, now + 2 * publishing.REPAIR_AFTER, 2, None if clock is None else now + clock)
    assert publishing.repair() == 1


def test_trust_is_published_as_newest_and_as_chain(broker: Broker, installation: bytes) -> None:
    assert publishing.publish_trust() == 2
    _, message = keys.current_trust()
    with BackendClient("test").connect() as client:
        found = client.read_retained("f1/trust/#", expect=2, timeout_s=10)
    assert found == {"f1/trust": message, "f1/trust/1": message}
