"""Desired documents as rows of the database: the pending ones read, signed, stored and marked, many at once.

Thousands are published a second, so a row is a few plain values, and what the devices of a rollout are told
alike is encoded once (`ota.desired.encode_body`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from django.db import connection
from django.db.models import BigIntegerField, F, Func, QuerySet, TextField
from django.db.models.functions import Cast

from fleet.mqtt.codec.cose import Signer
from fleet.mqtt.codec.names import Action, ConfigKey
from ota.delivery import DeliveryError
from ota.desired import (
    NO_DIGEST,
    Desired,
    DesiredEntry,
    DesiredError,
    check_config,
    counter_trust_version,
    encode_body,
    encode_payload,
    sign_payload,
)
from ota.models import DesiredState

log = structlog.get_logger(__name__)


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
        entries=_entries(row.entries),
        config=_config(row.config, row.window),
    )


def _entries(stored: Mapping[str, Sequence[Any]]) -> dict[int, DesiredEntry]:
    return {
        int(slot): DesiredEntry(
            Action(action), bytes.fromhex(target) or NO_DIGEST, not_before, deadline, attempt
        )
        for slot, (action, target, not_before, deadline, attempt) in stored.items()
    }


def _config(stored: Mapping[str, Any], window: Any) -> dict[int, Any]:
    """The device's configuration; a rollout's window fills key 6 where no person set one for the device."""
    own = {int(key): value for key, value in stored.items()}
    return own if window is None else {int(ConfigKey.MAINTENANCE_WINDOW): window, **own}


@dataclass(slots=True)
class Row:
    """A desired document that the broker lacks. message: None until it is signed.

    issued_s, expires_s: unix seconds. entries, config, window: JSON text, the same for all devices that are
    told the same.
    """

    device_id: str
    counter: int
    issued_s: int
    expires_s: int
    message: bytes | None
    entries: str
    config: str
    window: str | None

    def payload(self, body: bytes) -> bytes:
        """What `document` of this row encodes to, `body` being the part it shares with others."""
        return encode_payload(
            body,
            device_id=self.device_id,
            counter=self.counter,
            trust_version=counter_trust_version(self.counter),
            issued=self.issued_s,
            expires=self.expires_s,
        )


class _UnixSeconds(Func):
    """A time as `int(time.timestamp())`, of which the driver makes no object first."""

    template = "floor(extract(epoch from %(expressions)s))::bigint"
    output_field = BigIntegerField()


def pending() -> QuerySet[DesiredState]:
    """Rows of devices in service whose newest document the broker lacks, oldest first."""
    behind = DesiredState.objects.filter(published_counter__lt=F("counter"), device__retired_at=None)
    return behind.order_by("issued_at", "device_id")


def read(limit: int) -> list[Row]:
    """The oldest pending rows, at most `limit`."""
    texts = [Cast(name, TextField()) for name in ("entries", "config", "window")]
    times = [_UnixSeconds(name) for name in ("issued_at", "expires_at")]
    columns = pending().values_list("device_id", "counter", *times, "message", *texts)
    return [
        Row(name, counter, issued_s, expires_s, None if message is None else bytes(message), *told)
        for name, counter, issued_s, expires_s, message, *told in columns[:limit]
    ]


def _body(entries: str, config: str, window: str | None) -> bytes:
    """The shared part of a payload. Raises DesiredError."""
    settings = _config(json.loads(config), None if window is None else json.loads(window))
    check_config(settings)
    return encode_body(_entries(json.loads(entries)), settings)


def sign(rows: Sequence[Row], signer: Signer, *, installation_id: bytes) -> None:
    """Give each row its signed message; what rows share is checked and encoded once.

    A row whose document no device would take is logged with its code and keeps None.
    """
    bodies: dict[tuple[str, str, str | None], bytes] = {}
    for row in rows:
        told = row.entries, row.config, row.window
        try:
            if told not in bodies:
                bodies[told] = _body(*told)
            payload = row.payload(bodies[told])
            row.message = sign_payload(row.device_id, payload, signer, installation_id=installation_id)
        except DesiredError as problem:
            log.error("desired_not_signed", device=row.device_id, code=problem.code, reason=problem.text)


def store_messages(rows: Sequence[Row]) -> None:
    """Store the messages of these rows; one whose device was told something else meanwhile loses it again.

    One statement for all: one by one, each waits for its own commit to reach the disk.
    """
    signed = [row for row in rows if row.message is not None]
    sql = (
        f'UPDATE "{DesiredState._meta.db_table}" AS d SET message = n.message '  # noqa: S608 - own name
        "FROM unnest(%s::text[], %s::bigint[], %s::bytea[]) AS n(device_id, counter, message) "
        "WHERE d.device_id = n.device_id AND d.counter = n.counter RETURNING d.device_id"
    )
    columns: list[list[Any]] = [
        [row.device_id for row in signed],
        [row.counter for row in signed],
        [row.message for row in signed],
    ]
    with connection.cursor() as cursor:
        cursor.execute(sql, columns)
        stored = {name for (name,) in cursor.fetchall()}
    for row in signed:
        if row.device_id not in stored:
            row.message = None


def mark_published(rows: Sequence[Row]) -> None:
    """Note that the broker has these documents; a row with a newer one by now stays pending."""
    with connection.cursor() as cursor:
        cursor.execute(
            f'UPDATE "{DesiredState._meta.db_table}" AS d SET published_counter = n.counter '  # noqa: S608
            "FROM unnest(%s::text[], %s::bigint[]) AS n(device_id, counter) "
            "WHERE d.device_id = n.device_id AND d.counter = n.counter",
            [[row.device_id for row in rows], [row.counter for row in rows]],
        )
