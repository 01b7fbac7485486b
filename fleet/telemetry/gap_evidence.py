"""Why a gap will never be filled: what the device said, what was refused, what became of the boot.

Only the device itself can close its gaps: events were stored because their MAC was right, and a refused
batch is opened with its key once more here. A forged message closes nothing.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection

from fleet.devices.keys import KEYRING, Keyring
from fleet.mqtt.codec.cbor import decode_strict
from fleet.mqtt.codec.cose import MAX_UPLINK_BYTES
from fleet.mqtt.codec.envelope import open_uplink
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.names import CommandVerb
from fleet.mqtt.codec.shape import INT32_MAX, UINT32_MAX
from fleet.telemetry.gap_ranges import Range

Key = tuple[str, int]  # device id, boot
Told = dict[Key, list[tuple[Range, str]]]
WHOLE: Final[Range] = (0, UINT32_MAX)

LOST_CAUSES: Final[Mapping[int, str]] = {1: "ring_full", 2: "not_held"}
"""Causes of event `telemetry_lost` (SPEC.md section 7); another number is `device_<number>`."""
REBOOTED: Final = "rebooted"
RETIRED: Final = "retired"
NOT_HELD: Final = "not_held"
AUTHENTIC: Final = (
    "format_unknown", "range", "bad_window", "time_range", "db_reject", "rate_limited", "too_many_versions",
)  # fmt: skip
"""Codes of dead letters that an authentic batch can have; whether one is, its MAC says."""
LOOK_BACK: Final = timedelta(hours=24)
"""A gap is explained by what was told at most so long before it was found."""
MOST_LETTERS: Final = 2_000
_MAX_RECORDS: Final = 64


def told(
    keys: Collection[Key], *, since: datetime, installation_id: bytes, keyring: Keyring = KEYRING
) -> Told:
    """Causes that are known of these boots, with the counters they are about.

    since: when the oldest of their gaps was found. Raises django.db.Error and SealError.
    """
    found: Told = defaultdict(list)
    wanted = set(keys)
    for key, counters, cause in [
        *_events(wanted, since - LOOK_BACK),
        *_letters(wanted, since - LOOK_BACK, installation_id, keyring),
    ]:
        if key in wanted:
            found[key].append((counters, cause))
    for key, cause in _ended(wanted):  # last, because it says least
        found[key].append((WHOLE, cause))
    return found


def _ended(keys: Collection[Key]) -> list[tuple[Key, str]]:
    """Boots whose ring is gone: the device was retired or has booted since."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT k.device_id, k.boot, d.id IS NULL OR d.retired_at IS NOT NULL"
            " FROM unnest(%s::text[], %s::bigint[]) AS k (device_id, boot)"
            " LEFT JOIN devices_device d ON d.id = k.device_id"
            " WHERE d.id IS NULL OR d.retired_at IS NOT NULL OR d.boot > k.boot OR EXISTS"
            " (SELECT 1 FROM tele_boot b WHERE b.device_id = k.device_id AND b.boot > k.boot)",
            _columns(keys),
        )
        return [((name, boot), RETIRED if gone else REBOOTED) for name, boot, gone in cursor.fetchall()]


def _events(keys: Collection[Key], since: datetime) -> list[tuple[Key, Range, str]]:
    """Ranges that devices said are lost, and those whose command they answered with a refusal."""
    found: list[tuple[Key, Range, str]] = []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT device_id, data::text FROM devices_deviceevent"
            " WHERE device_id = ANY(%s) AND at >= %s AND kind = 'telemetry_lost' ORDER BY id",
            [sorted({name for name, _ in keys}), since],
        )
        for name, text in cursor.fetchall():
            data = json.loads(text)
            cause = LOST_CAUSES.get(data["cause"], f"device_{data['cause']}"[:32])
            found.append(((name, data["boot"]), (data["from"], data["to"]), cause))
        cursor.execute(
            "SELECT DISTINCT g.device_id, g.boot, g.first, g.last FROM tele_gap g"
            " JOIN unnest(%s::text[], %s::bigint[]) AS k (device_id, boot)"
            " ON k.device_id = g.device_id AND k.boot = g.boot"
            " JOIN devices_deviceevent e ON e.device_id = g.device_id"
            " AND e.at >= g.asked_at - interval '1 day'"
            " WHERE g.state = 'asked' AND e.kind = 'command_result' AND e.code <> ''"
            " AND (e.data->>'verb')::bigint = %s AND (e.data->>'counter')::bigint = g.command",
            [*_columns(keys), int(CommandVerb.RESEND_TELEMETRY)],
        )
        found += [((name, boot), (first, last), NOT_HELD) for name, boot, first, last in cursor.fetchall()]
    return found


def _letters(
    keys: Collection[Key], since: datetime, installation_id: bytes, keyring: Keyring
) -> list[tuple[Key, Range, str]]:
    """Counters of authentic batches that were refused."""
    names = sorted({name for name, _ in keys})
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT device_id, topic, code, payload FROM tele_dead WHERE code = ANY(%s) AND at >= %s"
            " AND device_id = ANY(%s) ORDER BY at DESC, id DESC LIMIT %s",
            [list(AUTHENTIC), since, names, MOST_LETTERS],
        )
        letters = cursor.fetchall()
    if letters:
        keyring.load({name for name, *_ in letters})
    found = []
    for name, topic, code, payload in letters:
        head = read_head(name, topic, bytes(payload), installation_id=installation_id, keyring=keyring)
        if head is not None:
            found.append(((name, head[0]), head[1], code))
    return found


def read_head(
    device_id: str, topic: str, message: bytes, *, installation_id: bytes, keyring: Keyring
) -> tuple[int, Range] | None:
    """(boot, counters) of an authentic batch whatever else is wrong with it; None when it says neither, or is
    not authentic.
    """
    if topic != f"f1/dev/{device_id}/telemetry":
        return None
    try:
        payload = open_uplink(
            "telemetry",
            message,
            topic=topic,
            installation_id=installation_id,
            key_lookup=lambda kid: keyring.mac_key(device_id, kid),
        )
        item = decode_strict(payload, max_bytes=MAX_UPLINK_BYTES["telemetry"])
    except CodecError:
        return None
    if type(item) is not dict:
        return None
    boot, first = item.get(1), item.get(2)
    records = [item.get(kind) for kind in (7, 8, 9)]
    n = sum(len(one) for one in records if type(one) is list)
    if type(boot) is not int or type(first) is not int or not 1 <= n <= _MAX_RECORDS:
        return None
    if not 0 <= boot <= INT32_MAX or not 0 <= first <= UINT32_MAX - n:
        return None
    return boot, (first, first + n - 1)


def _columns(keys: Collection[Key]) -> Sequence[list[Any]]:
    ordered = sorted(keys)
    return [name for name, _ in ordered], [boot for _, boot in ordered]
