"""From bytes of a topic to something known: which device, authentic or not, and what it says."""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple

from fleet.devices.keys import KEYRING, Keyring
from fleet.gateway import pace
from fleet.mqtt import topics
from fleet.mqtt.client import Arrived
from fleet.mqtt.codec.cose import MAX_UPLINK_BYTES
from fleet.mqtt.codec.envelope import open_uplink
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.event import Event, parse_event
from fleet.mqtt.codec.json_windows import BEGINS, MAX_BYTES, parse_json
from fleet.mqtt.codec.reported import Reported, parse_reported
from fleet.mqtt.codec.telemetry import Batch, parse_batch
from fleet.telemetry import ingest
from fleet.telemetry.dead import Refused
from fleet.telemetry.errors import TelemetryError
from fleet.telemetry.new_runs import NewRuns

ONLINE_BYTES: Final = 16


class Uplink(NamedTuple):
    """An uplink that was understood.

    content: True/False for `online`, which has no MAC and decides nothing. is_authentic: False for that, and
    for telemetry that came as JSON in debug mode: nothing but the broker's rules says who sent it.
    """

    device_id: str
    kind: str
    content: Reported | Batch | Event | bool
    is_retained: bool
    is_authentic: bool = True


class Reader:
    """Judges uplinks of one installation with the MAC keys of its devices.

    takes_json: in debug mode alone (FLEET_DEBUG_JSON), batches of windows may come as JSON. JSON carries no
    MAC: that the broker lets a device write below its own name is all that then speaks for a message, so
    whoever has a device's broker secret, or the broker, can write in its name.
    """

    def __init__(
        self, installation_id: bytes, keyring: Keyring = KEYRING, *, takes_json: bool = False
    ) -> None:
        self._installation_id = installation_id
        self._keyring = keyring
        self._takes_json = takes_json
        self._new_runs = NewRuns()

    def read_all(self, messages: Sequence[Arrived], *, now: datetime) -> list[Uplink | Refused]:
        """What each message says, or why it is refused, with a code of `fleet.telemetry.dead.CODES`.

        The device is the one the topic names, which the broker's rules tie to its sender and the MAC to its
        key. Size comes first: too large a message is not parsed. Keys, and model runs that nobody knew, are
        asked for together. Raises django.db.Error and SealError.
        """
        self._keyring.load({_device_of(message.topic) for message in messages} - {""})
        found = [self._read(message, now) for message in messages]
        sent = [
            (place, (one.device_id, one.content))
            for place, one in enumerate(found)
            if isinstance(one, Uplink) and isinstance(one.content, Batch) and one.is_authentic
        ]
        for n in self._new_runs.excess([one for _, one in sent], now=now):
            place, (device_id, _) = sent[n]
            message = messages[place]
            text = f"more than {self._new_runs.most} model runs that were not known, in a day"
            found[place] = Refused(device_id, message.topic, "too_many_versions", text, message.payload)
        return found

    def read(self, message: Arrived, *, now: datetime) -> Uplink | Refused:
        """As `read_all`, of one message."""
        return self.read_all([message], now=now)[0]

    def _read(self, message: Arrived, now: datetime) -> Uplink | Refused:
        device_id = ""
        try:
            device_id, kind = _parsed(message.topic)
            if message.excess:
                return Refused(
                    device_id,
                    message.topic,
                    "rate_limited",
                    "this device sends more than it may; what follows at this pace is only counted",
                    message.payload,
                    is_kept=message.excess == pace.FIRST,
                )
            content = self._content(device_id, kind, message, now)
        except (CodecError, TelemetryError) as error:
            return Refused(device_id, message.topic, error.code, error.text, message.payload)
        is_authentic = kind != "online" and not _is_json(kind, message)
        return Uplink(device_id, kind, content, message.is_retained, is_authentic)

    def _content(
        self, device_id: str, kind: str, message: Arrived, now: datetime
    ) -> Reported | Batch | Event | bool:
        is_json = _is_json(kind, message)
        limit = MAX_BYTES if is_json and self._takes_json else MAX_UPLINK_BYTES.get(kind, ONLINE_BYTES)
        if len(message.payload) > limit:
            raise CodecError(
                "too_large", f"{len(message.payload):,} bytes of {kind}, at most {limit:,} are taken"
            )
        known = self._keyring.device(device_id)
        if known is None:
            raise CodecError("unknown_device", "no device of this id is enrolled")
        if known.is_retired:
            raise CodecError("retired_device", "this device was retired")
        if kind == "online":
            if message.payload not in (topics.ONLINE, topics.OFFLINE):
                raise CodecError("cbor_bad", "online is {0: 1} or {0: 0}")
            return message.payload == topics.ONLINE
        if is_json:
            return self._unproven(message, now)
        payload = open_uplink(
            kind,
            message.payload,
            topic=message.topic,
            installation_id=self._installation_id,
            key_lookup=lambda kid: known.keys.get(kid) or self._keyring.mac_key(device_id, kid),
        )
        if kind == "reported":
            return parse_reported(payload)
        if kind == "event":
            return parse_event(payload)
        batch = parse_batch(payload)
        ingest.check_times(batch, now=now)
        return batch

    def _unproven(self, message: Arrived, now: datetime) -> Batch:
        if not self._takes_json:
            raise CodecError("mac_missing", "JSON carries no MAC: it is taken in debug mode only")
        batch = parse_json(message.payload)
        ingest.check_times(batch, now=now)
        return batch


def _is_json(kind: str, message: Arrived) -> bool:
    return kind == "telemetry" and message.payload[:1] == BEGINS


@lru_cache(maxsize=100_000)
def _parsed(topic: str) -> tuple[str, str]:
    """As `topics.parse_uplink`; a device sends on the same topics for years."""
    return topics.parse_uplink(topic)


def _device_of(topic: str) -> str:
    try:
        return _parsed(topic)[0]
    except CodecError:
        return ""
