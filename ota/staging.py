"""A signed manifest's chunks on the broker: published once as retained messages, read back, kept while
anything refers to them.

The broker is a cache. What belongs there is in the database; `ensure_staged` compares and repairs. A row is
worked on under a lease with a fencing counter, so a worker that was held up longer than its lease finds that
its progress no longer counts.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

import structlog
from django.core.cache import cache
from django.db import connection, transaction
from django.db.models import F, Q
from django.utils import timezone

from fleet import hints
from fleet.accounts import audit
from fleet.accounts.audit import SYSTEM
from fleet.devices.models import DeviceSlot
from fleet.mqtt import topics
from fleet.mqtt.client import BackendClient, MqttError
from ota import chunking, publishing
from ota.choices import ROLLOUT_TERMINAL, StagingState, VersionState
from ota.errors import OtaError
from ota.models import DesiredState, Manifest, ModelVersion, Rollout, Staging, Trust
from ota.queues import enqueue

log = structlog.get_logger(__name__)

LEASE: Final = timedelta(seconds=60)
BACKOFF: Final = timedelta(seconds=10)
BATCH_CHUNKS: Final = 64
"""Progress is stored after so many acknowledged chunks."""
READ_BACKS: Final = 3
CONNECT_S = 10.0
BROKER_DEADLINE_S: Final = 15.0
KEEP_UNUSED: Final = timedelta(hours=24)
PROBED_CHUNKS: Final = 4
COLLECTED_AT_ONCE: Final = 20
UPTIME_SLACK_S: Final = 12.0
UNFINISHED: Final = (StagingState.PENDING, StagingState.STAGING, StagingState.FAILED)
_STARTED_KEY: Final = "staging:broker-started-at"


class StagingError(OtaError):
    """Staging did not succeed.

    Codes: `digest` (what the broker holds differs after several rounds), `lease_lost`, `not_found`.
    """


def retained_messages(manifest: Manifest) -> dict[str, bytes]:
    """Everything a manifest has retained, topic to bytes: chunks first and in order, then the leaf list, the
    manifest last.

    In this order nobody who sees the manifest looks for chunks that are not there yet.
    """
    data = bytes(manifest.version.artifact.data)
    return dict(chunking.publications(manifest.mid, bytes(manifest.message), data, bytes(manifest.blob)))


def request(manifest: Manifest) -> Staging:
    """Have a manifest's chunks published, after commit. Does nothing when they are there or on their way."""
    with transaction.atomic():
        row, is_new = Staging.objects.get_or_create(manifest=manifest)
        again = Staging.objects.filter(pk=row.pk, state__in=[StagingState.COLLECTED, StagingState.FAILED])
        if again.update(state=StagingState.PENDING, published=0, error="") or is_new:
            enqueue("ota.stage_manifest", manifest.pk)
        row.refresh_from_db()
    return row


def stage(manifest_id: str, *, now: datetime) -> bool:
    """Publish what is missing of a manifest, read everything back, mark it staged. True when this call did
    that.

    False when another worker holds the lease or nothing is to do. Killed anywhere, the next call goes on
    behind the last stored chunk; repeated publishes change nothing. Raises MqttError (the row keeps its
    progress and is retried), StagingError `digest` when what the broker holds still differs after several
    rounds, `lease_lost` when another worker took over, `not_found`.
    """
    rows = Staging.objects.select_related("manifest__version__artifact")
    row = rows.filter(manifest_id=manifest_id).first()
    if row is None:
        raise StagingError("not_found", f"manifest {manifest_id[:16]} was never requested to be staged")
    fence = _claim(row, UNFINISHED, StagingState.STAGING, now=now)
    if fence is None:
        return False
    _move_version(row.manifest, [VersionState.SIGNED], VersionState.STAGING)
    try:
        with BackendClient("stage") as client:
            client.connect(timeout_s=CONNECT_S)
            _publish(client, row, fence)
    except (MqttError, StagingError) as problem:
        state = StagingState.FAILED if problem.code == "digest" else StagingState.STAGING
        held = Staging.objects.filter(pk=row.pk, fence=fence)
        held.update(
            state=state, error=f"{problem.code}: {problem.text}"[:256], lease_until=timezone.now() + BACKOFF
        )
        raise
    with transaction.atomic():
        held = Staging.objects.filter(pk=row.pk, fence=fence, state=StagingState.STAGING)
        if not held.update(state=StagingState.STAGED, verified_at=now, error="", lease_until=None):
            raise StagingError("lease_lost", "another worker took the staging over")
        _move_version(row.manifest, [VersionState.SIGNED, VersionState.STAGING], VersionState.STAGED)
        audit.record(
            actor=SYSTEM,
            verb="manifest.staged",
            subject_kind="manifest",
            subject_id=row.manifest_id,
            at=now,
            after={"chunks": row.manifest.chunks},
        )
    return True


def ensure_staged(*, now: datetime) -> dict[str, int]:
    """Compare the broker with the database and have everything missing published again.

    Looks at the trust document and, for each manifest that a desired document or an unfinished rollout names,
    at manifest, leaf list and a few random chunks. A broker that was restarted, or of which an emptied cache
    knows nothing, may have lost any message: then every chunk is looked at and all desired documents are
    published again. Returns counts: trust, manifests, desired. Raises MqttError.
    """
    found = {"trust": 0, "manifests": 0, "desired": 0}
    with BackendClient("stage") as client:
        client.connect(timeout_s=CONNECT_S)
        started_s = _told_start(client, now)
        is_thorough = _may_be_new(started_s)
        newest = Trust.objects.first()
        if newest is not None:
            held = client.read_retained(f"{topics.TRUST}/#", expect=None, timeout_s=BROKER_DEADLINE_S)
            wanted = (topics.TRUST, topics.trust_version(newest.version))
            if any(held.get(topic) != bytes(newest.message) for topic in wanted):
                publishing.publish_trust(client)
                found["trust"], is_thorough = 1, True  # a store that lost this lost more
        rows = Staging.objects.select_related("manifest").order_by("pk")
        wanted_rows = rows.filter(manifest_id__in=_wanted())
        for row in wanted_rows.filter(state=StagingState.COLLECTED):
            found["manifests"] += request(row.manifest).state == StagingState.PENDING
        looked_at = rows if is_thorough else wanted_rows
        for row in looked_at.filter(state=StagingState.STAGED):
            if _is_damaged(client, row.manifest, is_thorough=is_thorough):
                found["manifests"] += _lost(row)
    found["desired"] = publishing.publish_everything_again() if is_thorough else publishing.repair()
    _remember_start(started_s)  # only now: a call killed before this repairs the same restart again
    if any(found.values()):
        log.warning("broker_repaired", **found, is_thorough=is_thorough)
    return found


def collect(*, now: datetime) -> int:
    """Clear the retained chunks of manifests that nothing refers to any more, a day after they were staged at
    the earliest.

    Returns how many manifests were cleared. Raises MqttError; what a call could not finish, the next one
    does.
    """
    idle = Q(state=StagingState.STAGED, verified_at__lt=now - KEEP_UNUSED)
    unfinished = Q(state=StagingState.COLLECTED, published__gt=0)
    rows = Staging.objects.filter(idle | unfinished).exclude(manifest_id__in=referenced())
    cleared = 0
    for row in rows.select_related("manifest__version__artifact")[:COLLECTED_AT_ONCE]:
        # From here on `request` starts a new staging, and that waits for our lease: it cannot publish what we
        # then clear.
        fence = _claim(row, [row.state], StagingState.COLLECTED, now=now)
        if fence is None:
            continue
        ours = Staging.objects.filter(pk=row.pk, fence=fence)
        if row.manifest_id in referenced():
            ours.filter(state=StagingState.COLLECTED).update(state=row.state, lease_until=None)
            continue
        _move_version(row.manifest, [VersionState.STAGED], VersionState.SIGNED)
        with BackendClient("stage") as client:
            client.connect(timeout_s=CONNECT_S)
            # The manifest goes first, so that nobody who sees it misses chunks.
            gone = [(topic, b"") for topic in reversed(retained_messages(row.manifest))]
            client.publish_all(gone, deadline_s=BROKER_DEADLINE_S)
        ours.update(lease_until=None, published=0)
        cleared += 1
    return cleared


def waiting(*, now: datetime, limit: int = 50) -> list[str]:
    """Ids of manifests whose staging is due and nobody works on, for the reconciler."""
    free = Q(lease_until=None) | Q(lease_until__lt=now)
    return list(
        Staging.objects.filter(free, state__in=UNFINISHED).values_list("manifest_id", flat=True)[:limit]
    )


def referenced() -> set[str]:
    """Ids of the manifests that a desired document, a device's banks or target, or an unfinished rollout
    names.
    """
    short: set[str] = set()
    for column in ("run", "other", "target"):
        short.update(DeviceSlot.objects.exclude(**{column: ""}).values_list(column, flat=True).distinct())
    known = {pk[:32]: pk for pk in Manifest.objects.values_list("pk", flat=True)}
    return _wanted() | {known[id16] for id16 in short if id16 in known}


def _wanted() -> set[str]:
    """Ids of the manifests that a desired document or an unfinished rollout names."""
    with connection.cursor() as cursor:
        cursor.execute(
            f'SELECT DISTINCT e.value->>1 FROM "{DesiredState._meta.db_table}", jsonb_each(entries) e'  # noqa: S608 - own name
        )
        found = {target for (target,) in cursor.fetchall() if target}
    live = Rollout.objects.exclude(state__in=ROLLOUT_TERMINAL)
    back = {goal for goal in live.values_list("plan__rollback_to", flat=True) if goal and len(goal) == 64}
    return found | back | set(live.values_list("manifest_id", flat=True))


def _publish(client: BackendClient, row: Staging, fence: int) -> None:
    """Publish from the stored progress on, then compare everything and mend what differs."""
    messages, total = retained_messages(row.manifest), row.manifest.chunks
    done = row.published
    items = iter(list(messages.items())[done:])
    while batch := list(islice(items, BATCH_CHUNKS)):
        client.publish_all(batch, deadline_s=BROKER_DEADLINE_S)
        before, done = done, min(total, done + len(batch))
        _progress(row, fence, done, done - before)
    for left in reversed(range(READ_BACKS)):
        found = client.read_retained(
            topics.model_filter(row.manifest.mid), expect=len(messages), timeout_s=BROKER_DEADLINE_S
        )
        missing = [topic for topic, payload in messages.items() if found.get(topic) != payload]
        if not missing:
            return
        log.warning("staging_differs", mid=row.manifest.mid, messages=len(missing))
        if left:
            client.publish_all([(topic, messages[topic]) for topic in missing], deadline_s=BROKER_DEADLINE_S)
            _progress(row, fence, total, sum(topic.rsplit("/", 1)[1].isdigit() for topic in missing))
    raise StagingError(
        "digest",
        f"{len(missing)} of {len(messages)} retained messages differ from what was published: {missing[0]}",
        "another client writes to these topics, or the broker drops messages: look at its log and limits",
    )


def _claim(row: Staging, states: Sequence[str], to: str, *, now: datetime) -> int | None:
    """Take the lease and move the row. The fencing counter for later writes; None when another worker was
    faster.
    """
    free = Q(lease_until=None) | Q(lease_until__lt=now)
    taken = Staging.objects.filter(free, pk=row.pk, state__in=states, fence=row.fence)
    if not taken.update(state=to, fence=row.fence + 1, lease_until=now + LEASE):
        return None
    return row.fence + 1


def _progress(row: Staging, fence: int, published: int, fresh: int) -> None:
    """Store how far it is and prolong the lease. Raises StagingError `lease_lost`."""
    held = Staging.objects.filter(pk=row.pk, fence=fence)
    more = {"publishes": F("publishes") + fresh, "lease_until": timezone.now() + LEASE}
    if not held.update(published=published, **more):
        raise StagingError("lease_lost", "another worker took the staging over")
    hints.changed(hints.version(row.manifest.version_id))


def _move_version(manifest: Manifest, states: Sequence[str], to: str) -> None:
    if ModelVersion.objects.filter(pk=manifest.version_id, state__in=states).update(state=to):
        hints.changed(hints.version(manifest.version_id))


def _lost(row: Staging) -> int:
    """Send a manifest back to staging from the start. Its version stays staged: devices only wait a little
    longer.
    """
    with transaction.atomic():
        damaged = Staging.objects.filter(pk=row.pk, state=StagingState.STAGED, fence=row.fence)
        if not damaged.update(state=StagingState.PENDING, published=0, lease_until=None):
            return 0
        enqueue("ota.stage_manifest", row.manifest_id)
    return 1


def _is_damaged(client: BackendClient, manifest: Manifest, *, is_thorough: bool) -> bool:
    """True when something of a manifest is not retained as it should be. Chunks are judged by the signed leaf
    list.
    """
    mid, leaves = manifest.mid, bytes(manifest.leaves)
    indices: Iterable[int] = range(manifest.chunks)
    if not is_thorough:
        indices = random.sample(range(manifest.chunks), min(PROBED_CHUNKS, manifest.chunks))
    wanted = [topics.manifest(mid), topics.leaves(mid), *(topics.chunk(mid, index) for index in indices)]
    if is_thorough:
        held = client.read_retained(topics.model_filter(mid), expect=len(wanted), timeout_s=BROKER_DEADLINE_S)
    else:
        held = {topic: _one(client, topic) for topic in wanted}
    if held.get(topics.manifest(mid)) != bytes(manifest.message) or held.get(topics.leaves(mid)) != leaves:
        return True
    width = chunking.LEAF_BYTES
    return any(
        chunking.leaf(index, held.get(topics.chunk(mid, index), b""))
        != leaves[index * width : (index + 1) * width]
        for index in indices
    )


def _one(client: BackendClient, topic: str) -> bytes:
    return client.read_retained(topic, expect=1, timeout_s=BROKER_DEADLINE_S).get(topic, b"")


def _told_start(client: BackendClient, now: datetime) -> float | None:
    """When the broker started, by the uptime that Mosquitto tells; None where nothing is told.

    The figure may be up to 10 s old, so this is never too early.
    """
    text = _one(client, "$SYS/broker/uptime").split(b" ")[0]
    return now.timestamp() - int(text) if text.isdigit() else None


def _may_be_new(started_s: float | None) -> bool:
    """True when the broker has started since the last look, or nobody knows when that was.

    A cache that was lost remembers no start: a power cut takes Redis and the broker's store together, and
    what the broker then lacks nobody would look for.
    """
    known_s = cache.get(_STARTED_KEY)
    return started_s is not None and (known_s is None or started_s > known_s + UPTIME_SLACK_S)


def _remember_start(started_s: float | None) -> None:
    known_s = cache.get(_STARTED_KEY)
    if started_s is None or (known_s is not None and known_s <= started_s <= known_s + UPTIME_SLACK_S):
        return
    cache.set(_STARTED_KEY, started_s, timeout=None)
