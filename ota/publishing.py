"""Sign the documents devices are told and put them on the broker, one retained message per device.

What a document says is a row (`ota.delivery`). Its bytes depend only on the row and are stored before they
are sent, by one process at a time and in bounded batches, so publishing may be killed anywhere: a repeated
publish repeats the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from django.db import transaction
from django.db.models import F

from fleet.devices.installation import installation_id
from fleet.devices.models import Presence
from fleet.mqtt import topics
from fleet.mqtt.access import MqttError
from fleet.mqtt.publisher import BulkPublisher
from ota import desired_rows, keys
from ota.desired_rows import Row
from ota.locks import try_lock
from ota.models import DesiredState, Trust
from ota.queues import enqueue

BATCH: Final = 500
REPAIR_AFTER: Final = timedelta(seconds=30)
CONNECT_S = 10.0
PUBLISH_DEADLINE_S: Final = 20.0


class Publisher(Protocol):
    """A connection that can publish: `BulkPublisher`, `BackendClient` or `Connection`."""

    def publish_all(
        self, items: Iterable[tuple[str, bytes]], *, retain: bool = True, deadline_s: float
    ) -> int:
        """As `BulkPublisher.publish_all`."""


class Connection:
    """The broker for the time of a block: connected as a worker when the first message is there, and kept for
    the next batches.
    """

    def __init__(self) -> None:
        self._own: BulkPublisher | None = None

    def publish_all(
        self, items: Iterable[tuple[str, bytes]], *, retain: bool = True, deadline_s: float
    ) -> int:
        """As `BulkPublisher.publish_all`, and raises MqttError as its `connect` and when no name is free."""
        if self._own is None:
            self._own = BulkPublisher("worker").connect(timeout_s=CONNECT_S)
        return self._own.publish_all(items, retain=retain, deadline_s=deadline_s)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None


@dataclass(frozen=True)
class Published:
    """What one call published. is_more: documents are left, and this caller is the one to go on."""

    count: int
    is_more: bool


def publish_pending(limit: int = BATCH, *, client: Publisher | None = None) -> Published:
    """Sign and publish at most `limit` documents the broker does not have yet.

    client: kept open; None = a connection for this call. One process at a time publishes, so an older
    document can never arrive behind a newer one; a second caller returns at once. A row that changed
    meanwhile stays unpublished for the next call. Raises MqttError, and what the broker had acknowledged by
    then counts as published; KeysError.
    """
    with try_lock("ota.publish_desired") as is_held:
        rows = desired_rows.read(limit) if is_held else []
        count = _publish(rows, client) if rows else 0
    # Looked at once the lock is free: a change whose own call met the lock is found here.
    return Published(count, is_held and is_pending())


def is_pending() -> bool:
    """True when the broker lacks the newest document of some device."""
    return desired_rows.pending().exists()


def publish_trust(client: Publisher | None = None) -> int:
    """Publish the newest trust document and the chain of all versions. Returns how many messages."""
    chain = [(row.version, bytes(row.message)) for row in Trust.objects.order_by("version")]
    if not chain:
        return 0
    items = [(topics.trust_version(version), message) for version, message in chain]
    items.append((topics.TRUST, chain[-1][1]))
    with Connection() as own:
        return (client or own).publish_all(items, retain=True, deadline_s=PUBLISH_DEADLINE_S)


def publish_everything_again() -> int:
    """Forget that the broker has any desired document, as after it lost its store. Returns how many documents
    that touches.
    """
    with transaction.atomic():
        count = DesiredState.objects.filter(published_counter__gt=0).update(published_counter=0)
        if count:
            enqueue("ota.publish_desired")
    return count


def repair(*, limit: int = BATCH) -> int:
    """Publish again what connected devices evidently did not get. Returns how many documents.

    Evidence: a report that was made well after the document was issued and still names an older counter. So
    one lost message never strands a device. When it was made is told by the device's clock: a report that
    waited for a gateway proves nothing about a document that was issued meanwhile.
    """
    late = DesiredState.objects.filter(
        published_counter=F("counter"),
        counter__gt=F("device__desired_counter"),
        device__presence=Presence.ONLINE,
        device__report_made_at__gt=F("issued_at") + REPAIR_AFTER,
    )
    names = list(late.values_list("device_id", flat=True)[:limit])
    with transaction.atomic():
        count = DesiredState.objects.filter(pk__in=names).update(published_counter=0)
        if count:
            enqueue("ota.publish_desired")
    return count


def _publish(rows: Sequence[Row], client: Publisher | None) -> int:
    """Publish these rows and mark those that are still the newest. Returns how many were published."""
    _sign(rows)
    rows = [row for row in rows if row.message is not None]
    if not rows:
        return 0
    messages = ((topics.desired(row.device_id), row.message or b"") for row in rows)
    try:
        with Connection() as own:
            (client or own).publish_all(messages, retain=True, deadline_s=PUBLISH_DEADLINE_S)
    except MqttError as problem:
        # A broker that takes less than a batch in time must still come to the end of it.
        done = [row for n, row in enumerate(rows[: problem.acknowledged]) if n not in problem.refused]
        desired_rows.mark_published(done)
        raise
    desired_rows.mark_published(rows)
    return len(rows)


def _sign(rows: Sequence[Row]) -> None:
    """Sign the rows that have no message yet and store the bytes before anyone sees them."""
    unsigned = [row for row in rows if row.message is None]
    if unsigned:
        desired_rows.sign(unsigned, keys.online_signer(), installation_id=installation_id())
        desired_rows.store_messages(unsigned)
