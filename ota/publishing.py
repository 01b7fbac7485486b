"""Sign the documents devices are told and put them on the broker, one retained message per device.

What a document says is a row (`ota.delivery`). Its bytes depend only on the row and are stored before they
are sent, by one process at a time and in bounded batches, so publishing may be killed anywhere: a repeated
publish repeats the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog
from django.db import connection, transaction
from django.db.models import F

from fleet.devices.installation import installation_id
from fleet.devices.models import Presence
from fleet.mqtt import topics
from fleet.mqtt.client import BackendClient
from fleet.mqtt.codec.names import Action, ConfigKey
from ota import keys
from ota.delivery import DeliveryError
from ota.desired import (
    NO_DIGEST,
    Desired,
    DesiredEntry,
    DesiredError,
    counter_trust_version,
    sign_desired,
)
from ota.locks import try_lock
from ota.models import DesiredState, Trust
from ota.queues import enqueue

log = structlog.get_logger(__name__)

BATCH: Final = 500
REPAIR_AFTER: Final = timedelta(seconds=30)
CONNECT_S = 10.0
PUBLISH_DEADLINE_S: Final = 20.0


@dataclass(frozen=True)
class Published:
    """What one call published. is_more: documents are left, and this caller is the one to go on."""

    count: int
    is_more: bool


def publish_pending(limit: int = BATCH, *, client: BackendClient | None = None) -> Published:
    """Sign and publish at most `limit` documents the broker does not have yet.

    One process at a time publishes, so an older document can never arrive behind a newer one; a second caller
    returns at once. A row that changed meanwhile stays unpublished for the next call. Raises MqttError,
    KeysError.
    """
    with try_lock("ota.publish_desired") as is_held:
        rows = list(_pending()[:limit]) if is_held else []
        count = _publish(rows, client) if rows else 0
    # Looked at once the lock is free: a change whose own call met the lock is found here.
    return Published(count, is_held and is_pending())


def is_pending() -> bool:
    """True when the broker lacks the newest document of some device."""
    return bool(_pending().exists())


def publish_trust(client: BackendClient | None = None) -> int:
    """Publish the newest trust document and the chain of all versions. Returns how many messages."""
    chain = [(row.version, bytes(row.message)) for row in Trust.objects.order_by("version")]
    if not chain:
        return 0
    items = [(topics.trust_version(version), message) for version, message in chain]
    items.append((topics.TRUST, chain[-1][1]))
    with _connected(client) as broker:
        return broker.publish_all(items, retain=True, qos=1, deadline_s=PUBLISH_DEADLINE_S)


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


def document(row: DesiredState) -> Desired:
    """The document a row stands for; its signed bytes depend on nothing else but key and installation."""
    if row.issued_at is None or row.expires_at is None:
        raise DeliveryError("not_found", f"{row.device_id} has no desired document yet")
    return Desired(
        device_id=row.device_id,
        counter=row.counter,
        trust_version=counter_trust_version(row.counter),
        issued=int(row.issued_at.timestamp()),
        expires=int(row.expires_at.timestamp()),
        entries={
            int(slot): DesiredEntry(
                Action(action), bytes.fromhex(target) or NO_DIGEST, not_before, deadline, attempt
            )
            for slot, (action, target, not_before, deadline, attempt) in row.entries.items()
        },
        config=_config(row),
    )


def _config(row: DesiredState) -> dict[int, Any]:
    """The device's configuration; a rollout's window fills key 6 where no person set one for the device."""
    own = {int(key): value for key, value in row.config.items()}
    return own if row.window is None else {int(ConfigKey.MAINTENANCE_WINDOW): row.window, **own}


def _pending() -> Any:
    behind = DesiredState.objects.filter(published_counter__lt=F("counter"), device__retired_at=None)
    return behind.order_by("issued_at", "device_id")


def _sign(rows: Sequence[DesiredState]) -> None:
    """Sign the rows that have no message yet and store the bytes before anyone sees them."""
    unsigned = [row for row in rows if row.message is None]
    if not unsigned:
        return
    signer, installation = keys.online_signer(), installation_id()
    signed: dict[str, tuple[int, bytes]] = {}
    for row in unsigned:
        try:
            message = sign_desired(document(row), signer, installation_id=installation)
        except DesiredError as problem:
            log.error("desired_not_signed", device=row.device_id, code=problem.code, reason=problem.text)
            continue
        signed[row.device_id] = row.counter, message
    # One statement for all: one by one, each waits for its own commit to reach the disk.
    sql = (
        f'UPDATE "{DesiredState._meta.db_table}" AS d SET message = n.message '  # noqa: S608 - own name
        "FROM unnest(%s::text[], %s::bigint[], %s::bytea[]) AS n(device_id, counter, message) "
        "WHERE d.device_id = n.device_id AND d.counter = n.counter RETURNING d.device_id"
    )
    columns: list[list[Any]] = [
        list(signed),
        [counter for counter, _ in signed.values()],
        [message for _, message in signed.values()],
    ]
    with connection.cursor() as cursor:
        cursor.execute(sql, columns)
        stored = {name for (name,) in cursor.fetchall()}
    for row in unsigned:
        if row.device_id in stored:
            row.message = signed[row.device_id][1]


def _publish(rows: list[DesiredState], client: BackendClient | None) -> int:
    """Publish these rows and mark those that are still the newest. Returns how many were published."""
    _sign(rows)
    rows = [row for row in rows if row.message is not None]
    messages = ((topics.desired(row.device_id), bytes(row.message or b"")) for row in rows)
    with _connected(client) as broker:
        broker.publish_all(messages, retain=True, qos=1, deadline_s=PUBLISH_DEADLINE_S)
    with connection.cursor() as cursor:
        cursor.execute(
            f'UPDATE "{DesiredState._meta.db_table}" AS d SET published_counter = n.counter '  # noqa: S608
            "FROM unnest(%s::text[], %s::bigint[]) AS n(device_id, counter) "
            "WHERE d.device_id = n.device_id AND d.counter = n.counter",
            [[row.device_id for row in rows], [row.counter for row in rows]],
        )
    return len(rows)


class _connected:
    """The client given, left open; or a new connection as a worker for the block."""

    def __init__(self, client: BackendClient | None) -> None:
        self._given = client
        self._own: BackendClient | None = None

    def __enter__(self) -> BackendClient:
        if self._given is not None:
            return self._given
        self._own = BackendClient("worker")
        return self._own.connect(timeout_s=CONNECT_S)

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._own.close()
