"""Staging: every chunk once, read back, resumable, repaired after a broker loss, collected when unused."""

import os
import signal
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from fleet.devices.models import DeviceSlot
from fleet.mqtt import topics
from fleet.mqtt.client import BackendClient, MqttError
from ota import chunking, delivery, publishing, staging
from ota.choices import StagingState, VersionState
from ota.models import DesiredState, Manifest, ModelVersion, Staging
from ota.staging import StagingError
from tests.stack.services import Broker, wait_until

pytestmark = pytest.mark.usefixtures("known_broker")


@pytest.fixture
def known_broker(broker: Broker) -> None:
    """The broker, and a cache that remembers it has not started again."""
    staging.cache.set(staging._STARTED_KEY, timezone.now().timestamp(), timeout=None)


def held(manifest: Manifest) -> dict[str, bytes]:
    with BackendClient("test").connect() as client:
        return client.read_retained(topics.model_filter(manifest.mid), expect=None, timeout_s=10)


def lose(*gone: str) -> None:
    with BackendClient("test").connect() as client:
        client.publish_all([(topic, b"") for topic in gone], deadline_s=10)


def staged(manifest: Manifest) -> Staging:
    staging.request(manifest)
    assert staging.stage(manifest.pk, now=timezone.now())
    return Staging.objects.get(manifest=manifest)


def refer_to(manifest: Manifest, make_device: Any, name: str) -> None:
    """Let a desired document name the manifest."""
    device = make_device(name)
    DesiredState.objects.create(device=device, counter=1, entries={"0": [0, manifest.pk, 0, 0, 1]})


def test_every_chunk_is_published_once_and_read_back(make_manifest: Any) -> None:
    manifest = make_manifest(size=150 * 4096 + 7, vectors=60)
    assert len(bytes(manifest.blob)) > 4096
    row = staged(manifest)
    assert (row.state, row.published, row.publishes) == (
        StagingState.STAGED,
        manifest.chunks,
        manifest.chunks,
    )
    found = held(manifest)
    assert len(found) == manifest.chunks + 2
    data, blob = bytes(manifest.version.artifact.data), bytes(manifest.blob)
    parts = [found[topics.chunk(manifest.mid, index)] for index in range(manifest.chunks)]
    assert b"".join(parts) == data + blob
    assert found[topics.leaves(manifest.mid)] == chunking.leaves(data, blob)
    assert found[topics.manifest(manifest.mid)] == bytes(manifest.message)
    assert ModelVersion.objects.get(pk=manifest.version_id).state == VersionState.STAGED


def test_staging_again_publishes_nothing(make_manifest: Any) -> None:
    manifest = make_manifest()
    row = staged(manifest)
    staging.request(manifest)
    assert not staging.stage(manifest.pk, now=timezone.now())
    assert Staging.objects.get(pk=row.pk).publishes == row.publishes


def test_a_killed_worker_is_followed_by_one_that_goes_on_where_it_was(
    make_manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_manifest(size=200 * 4096)
    staging.request(manifest)
    now = timezone.now()
    # What a worker leaves that was killed after its first two stored batches: broker and row have 128 chunks,
    # the lease runs.
    with BackendClient("test").connect() as client:
        client.publish_all(list(staging.retained_messages(manifest).items())[:130], deadline_s=20)
    Staging.objects.update(
        state=StagingState.STAGING,
        published=128,
        publishes=128,
        fence=1,
        lease_until=now + timedelta(seconds=30),
    )
    assert not staging.stage(manifest.pk, now=now), "the lease still runs"
    assert staging.waiting(now=now) == []
    later = now + timedelta(seconds=31)
    assert staging.waiting(now=later) == [manifest.pk]
    real, published = BackendClient.publish_all, list[str]()

    def recording(self: BackendClient, items: Any, **given: Any) -> int:
        published.extend(topic for topic, _ in items)
        return real(self, items, **given)

    monkeypatch.setattr(BackendClient, "publish_all", recording)
    assert staging.stage(manifest.pk, now=later)
    row = Staging.objects.get(manifest=manifest)
    assert (row.state, row.published, row.publishes) == (
        StagingState.STAGED,
        manifest.chunks,
        manifest.chunks,
    )
    assert published == list(staging.retained_messages(manifest))[128:]
    assert len(held(manifest)) == manifest.chunks + 2


def test_a_worker_that_lost_its_lease_marks_nothing(make_manifest: Any) -> None:
    manifest = make_manifest(size=70 * 4096)
    staging.request(manifest)
    row = Staging.objects.get(manifest=manifest)
    first = staging._claim(row, staging.UNFINISHED, StagingState.STAGING, now=timezone.now())
    assert first is not None
    assert staging._claim(row, staging.UNFINISHED, StagingState.STAGING, now=timezone.now()) is None
    later = timezone.now() + timedelta(minutes=2)
    assert staging.stage(manifest.pk, now=later), "a second worker takes over once the lease has ended"
    with pytest.raises(StagingError) as caught:
        staging._progress(row, first, 1, 1)
    assert caught.value.code == "lease_lost"
    assert Staging.objects.get(pk=row.pk).published == manifest.chunks


def test_what_the_broker_changed_is_found_on_reading_back_and_mended(
    make_manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_manifest(size=20 * 4096)
    staging.request(manifest)
    real, spoilt = BackendClient.publish_all, topics.chunk(manifest.mid, 3)

    def spoiling(self: BackendClient, items: Any, **given: Any) -> int:
        count = real(self, items, **given)
        if not spoiled:
            spoiled.append(real(self, [(spoilt, b"another client was here")], deadline_s=5))
        return count

    spoiled: list[int] = []
    monkeypatch.setattr(BackendClient, "publish_all", spoiling)
    assert staging.stage(manifest.pk, now=timezone.now())
    row = Staging.objects.get(manifest=manifest)
    assert row.publishes == manifest.chunks + 1
    assert held(manifest)[spoilt] == staging.retained_messages(manifest)[spoilt]


def test_a_topic_that_stays_wrong_fails_with_a_code_and_is_tried_again_later(
    make_manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_manifest(size=5 * 4096)
    staging.request(manifest)
    real = BackendClient.publish_all

    def spoiling(self: BackendClient, items: Any, **given: Any) -> int:
        count = real(self, items, **given)
        real(self, [(topics.chunk(manifest.mid, 2), b"!")], deadline_s=5)
        return count

    with monkeypatch.context() as patch:
        patch.setattr(BackendClient, "publish_all", spoiling)
        with pytest.raises(StagingError) as caught:
            staging.stage(manifest.pk, now=timezone.now())
    assert caught.value.code == "digest"
    row = Staging.objects.get(manifest=manifest)
    assert row.state == StagingState.FAILED
    assert row.error.startswith("digest: 1 of ")
    assert staging.waiting(now=timezone.now()) == []
    later = timezone.now() + staging.BACKOFF
    assert staging.waiting(now=later) == [manifest.pk]
    assert staging.stage(manifest.pk, now=later)


def test_without_a_broker_staging_waits_with_a_code(
    make_manifest: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "CONNECT_S", 1.0)
    manifest = make_manifest()
    staging.request(manifest)
    settings.MQTT = {**settings.MQTT, "port": 1}
    with pytest.raises(MqttError) as caught:
        staging.stage(manifest.pk, now=timezone.now())
    assert caught.value.code == "broker_unreachable"
    row = Staging.objects.get(manifest=manifest)
    assert row.state == StagingState.STAGING
    assert "broker_unreachable" in row.error
    assert staging.waiting(now=timezone.now() + staging.BACKOFF) == [manifest.pk]


def test_staging_what_was_never_requested_has_a_code(make_manifest: Any) -> None:
    with pytest.raises(StagingError) as caught:
        staging.stage(make_manifest().pk, now=timezone.now())
    assert caught.value.code == "not_found"


def test_a_healthy_broker_is_left_alone(make_manifest: Any, make_device: Any) -> None:
    manifest = make_manifest()
    publishing.publish_trust()
    row = staged(manifest)
    refer_to(manifest, make_device, "healthy-1")
    assert staging.ensure_staged(now=timezone.now()) == {"trust": 0, "manifests": 0, "desired": 0}
    assert Staging.objects.get(pk=row.pk).state == StagingState.STAGED


@pytest.mark.parametrize("what", ["manifest", "leaves", "chunk"])
def test_a_lost_message_of_a_manifest_in_use_is_published_again(
    what: str, make_manifest: Any, make_device: Any
) -> None:
    manifest = make_manifest(size=3 * 4096)
    publishing.publish_trust()
    staged(manifest)
    refer_to(manifest, make_device, f"lost-{what}")
    topic = {
        "manifest": topics.manifest(manifest.mid),
        "leaves": topics.leaves(manifest.mid),
        "chunk": topics.chunk(manifest.mid, 1),
    }[what]
    lose(topic)
    assert staging.ensure_staged(now=timezone.now())["manifests"] == 1
    assert staging.stage(manifest.pk, now=timezone.now())
    assert topic in held(manifest)
    assert ModelVersion.objects.get(pk=manifest.version_id).state == VersionState.STAGED


def test_a_broker_that_lost_everything_gets_everything_again(
    make_manifest: Any, make_device: Any, now: Any
) -> None:
    manifest = make_manifest()
    publishing.publish_trust()
    staged(manifest)
    device = make_device("store-lost-1")
    delivery.set_config([device.pk], {1: 60}, now=now)
    DesiredState.objects.update(entries={"0": [0, manifest.pk, 0, 0, 1]})
    assert publishing.publish_pending().count == 1
    lose(*held(manifest), "f1/trust", "f1/trust/1", topics.desired(device.pk))
    assert staging.ensure_staged(now=timezone.now()) == {"trust": 1, "manifests": 1, "desired": 1}
    assert staging.stage(manifest.pk, now=timezone.now())
    assert publishing.publish_pending().count == 1
    assert staging.ensure_staged(now=timezone.now()) == {"trust": 0, "manifests": 0, "desired": 0}
    with BackendClient("test").connect() as client:
        assert len(client.read_retained("f1/trust/#", expect=2, timeout_s=10)) == 2
        assert client.read_retained(topics.desired(device.pk), expect=1, timeout_s=10)


def test_a_restarted_broker_is_noticed_by_its_uptime(
    broker: Broker, make_manifest: Any, make_device: Any, now: Any
) -> None:
    manifest = make_manifest(size=40 * 4096)
    publishing.publish_trust()
    staged(manifest)
    device = make_device("restart-1")
    delivery.set_config([device.pk], {1: 60}, now=now)
    DesiredState.objects.update(entries={"0": [0, manifest.pk, 0, 0, 1]})
    publishing.publish_pending()
    up_for_an_hour_s = timezone.now().timestamp() - 3600
    staging.cache.set(staging._STARTED_KEY, up_for_an_hour_s, timeout=None)
    before = broker.supervisor.pid("mosquitto")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: broker.supervisor.pid("mosquitto") != before, what="a new broker")
    wait_until(lambda: _uptime() != b"", what="the broker's uptime", deadline_s=30)
    found = staging.ensure_staged(now=timezone.now())
    assert found["desired"] == 1, "every desired document is published again"
    assert DesiredState.objects.get(pk=device.pk).published_counter == 0
    again = staging.ensure_staged(now=timezone.now())
    assert again["desired"] == 0, "the same restart is noticed once"


def test_an_emptied_cache_and_a_store_that_lost_a_part_are_mended_from_the_database(
    make_manifest: Any, make_device: Any, now: Any
) -> None:
    manifest = make_manifest(size=40 * 4096)
    publishing.publish_trust()
    staged(manifest)
    told, lost = make_device("cache-lost-1"), make_device("cache-lost-2")
    delivery.set_config([told.pk, lost.pk], {1: 60}, now=now)
    DesiredState.objects.update(entries={"0": [0, manifest.pk, 0, 0, 1]})
    publishing.publish_pending()
    gone = {topics.chunk(manifest.mid, index) for index in range(7, 9)}
    lose(topics.desired(lost.pk), *gone)  # the trust document is still there and raises no suspicion
    staging.cache.delete(staging._STARTED_KEY)
    wait_until(lambda: _uptime() != b"", what="the broker's uptime", deadline_s=30)
    assert staging.ensure_staged(now=timezone.now()) == {"trust": 0, "manifests": 1, "desired": 2}
    assert staging.stage(manifest.pk, now=timezone.now())
    assert publishing.publish_pending().count == 2
    assert gone <= held(manifest).keys()
    with BackendClient("test").connect() as client:
        assert client.read_retained(topics.desired(lost.pk), expect=1, timeout_s=10)
    again = staging.ensure_staged(now=timezone.now())
    assert again == {"trust": 0, "manifests": 0, "desired": 0}, "and then the broker is known"


def _uptime() -> bytes:
    try:
        with BackendClient("test").connect() as client:
            return client.read_retained("$SYS/broker/uptime", expect=1, timeout_s=5).get(
                "$SYS/broker/uptime", b""
            )
    except MqttError:
        return b""


def test_chunks_nobody_refers_to_are_cleared_after_a_day(make_manifest: Any) -> None:
    manifest = make_manifest()
    staged(manifest)
    assert staging.collect(now=timezone.now()) == 0, "not on its first day"
    later = timezone.now() + staging.KEEP_UNUSED + timedelta(minutes=1)
    assert staging.collect(now=later) == 1
    assert held(manifest) == {}
    assert Staging.objects.get(manifest=manifest).state == StagingState.COLLECTED
    assert ModelVersion.objects.get(pk=manifest.version_id).state == VersionState.SIGNED
    assert staging.collect(now=later) == 0
    staged(manifest)
    assert len(held(manifest)) == manifest.chunks + 2, "what was collected can be staged again"


@pytest.mark.parametrize("what", ["desired", "run", "other", "target"])
def test_what_a_document_or_a_devices_bank_names_is_kept(
    what: str, make_manifest: Any, make_device: Any, now: Any
) -> None:
    manifest = make_manifest()
    staged(manifest)
    if what == "desired":
        refer_to(manifest, make_device, "kept-1")
    else:
        slot = {what: manifest.id16}
        DeviceSlot.objects.create(device=make_device("kept-1"), slot=0, state="idle", updated_at=now, **slot)
    later = timezone.now() + 2 * staging.KEEP_UNUSED
    assert staging.collect(now=later) == 0
    assert len(held(manifest)) == manifest.chunks + 2


def test_a_collection_that_was_cut_short_is_finished_by_the_next(make_manifest: Any) -> None:
    manifest = make_manifest()
    staged(manifest)
    Staging.objects.update(state=StagingState.COLLECTED, lease_until=timezone.now())  # killed before clearing
    assert staging.collect(now=timezone.now() + timedelta(minutes=2)) == 1
    assert held(manifest) == {}


def test_a_collected_manifest_that_is_wanted_again_is_staged_again(
    make_manifest: Any, make_device: Any
) -> None:
    manifest = make_manifest()
    publishing.publish_trust()
    staged(manifest)
    later = timezone.now() + 2 * staging.KEEP_UNUSED
    assert staging.collect(now=later) == 1
    refer_to(manifest, make_device, "again-1")
    assert staging.ensure_staged(now=timezone.now())["manifests"] == 1
    assert staging.stage(manifest.pk, now=timezone.now())
    assert len(held(manifest)) == manifest.chunks + 2


def test_after_a_restart_a_manifest_that_waits_for_its_first_rollout_is_looked_at_too(
    make_manifest: Any,
) -> None:
    manifest = make_manifest()
    publishing.publish_trust()
    staged(manifest)
    lose(topics.chunk(manifest.mid, 0))
    assert staging.ensure_staged(now=timezone.now())["manifests"] == 0, "nothing names it yet"
    lose("f1/trust")
    assert staging.ensure_staged(now=timezone.now()) == {"trust": 1, "manifests": 1, "desired": 0}
