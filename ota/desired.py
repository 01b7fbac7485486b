"""Desired documents and commands: what the backend's online key tells a device (SPEC.md section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.mqtt import topics
from fleet.mqtt.codec import cose
from fleet.mqtt.codec.cbor import MAX_UINT, decode_strict, encode
from fleet.mqtt.codec.names import Action, CommandVerb
from fleet.mqtt.codec.shape import UINT16_MAX, Shape
from ota.config_ranges import config_errors
from ota.documents import DocumentError, document_shape, refusing_as
from ota.manifest import MAX_SLOT
from ota.trust import MAX_VERSION, TrustDocument

NO_DIGEST = bytes(32)
_TIME_BITS, _N_BITS = 32, 8
ConfigValue = int | tuple[int, ...]


class DesiredError(DocumentError):
    """A desired document or command was refused.

    Codes: `too_large`, `schema`, `signature`, `trust`, `sequence`, `expired`, `unknown_action`; the
    backend alone also refuses `config_invalid`.
    """


@dataclass(frozen=True)
class DesiredEntry:
    """What one slot should do. Times are unix seconds, 0 = none. manifest_id: 32 zero bytes for STOP.

    not_before gates activation, not download. attempt: raised to have a failed manifest tried again.
    """

    action: Action
    manifest_id: bytes = NO_DIGEST
    not_before: int = 0
    deadline: int = 0
    attempt: int = 0


@dataclass(frozen=True)
class Desired:
    """A desired document. entries: slot -> entry; a slot not named stays as it is. expires: 0 = never."""

    device_id: str
    counter: int
    trust_version: int
    issued: int
    expires: int = 0
    entries: Mapping[int, DesiredEntry] = field(default_factory=dict)
    config: Mapping[int, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The deterministic payload bytes. Raises DesiredError as `parse` does."""
        return encode_payload(
            encode_body(self.entries, self.config),
            device_id=self.device_id,
            counter=self.counter,
            trust_version=self.trust_version,
            issued=self.issued,
            expires=self.expires,
        )

    @classmethod
    def parse(cls, payload: bytes) -> Desired:
        """Read and check a payload, whoever signed it. Configuration values are kept as they are.

        Raises DesiredError `too_large`, `schema`, `sequence` for a counter of another trust version, and
        `unknown_action`.
        """
        fields, shape = _open(payload, "desired", required=range(8))
        return cls._read(fields, shape)

    @classmethod
    def _read(cls, fields: dict[int, Any], shape: Shape) -> Desired:
        entries, config = _read_body(fields[4], fields[5], shape)
        return cls(
            device_id=_device_id(fields[1], shape),
            counter=fields[2],
            trust_version=fields[3],
            entries=entries,
            config=config,
            issued=shape.uint(fields[6], "issued"),
            expires=shape.uint(fields[7], "expires"),
        )


def encode_body(entries: Mapping[int, DesiredEntry], config: Mapping[int, Any]) -> bytes:
    """What the devices of a rollout are told alike, entries and configuration, as bytes of the payload.

    Raises DesiredError as `Desired.parse`.
    """
    told = {slot: _entry_item(entry) for slot, entry in entries.items()}
    settings = {int(key): value for key, value in config.items()}
    _read_body(told, settings, document_shape(DesiredError))
    return b"".join((encode(4), encode(told), encode(5), encode(settings)))


def encode_payload(
    body: bytes, *, device_id: str, counter: int, trust_version: int, issued: int, expires: int
) -> bytes:
    """The payload of one device around a body: with thousands of devices, the body is made once.

    Raises DesiredError as `Desired.parse`.
    """
    shape = document_shape(DesiredError)
    _check_counter(counter, trust_version, shape)
    parts = (
        _PAYLOAD_HEAD,
        encode(_device_id(device_id, shape)),
        encode(2),
        encode(counter),
        encode(3),
        encode(trust_version),
        body,
        encode(6),
        encode(shape.uint(issued, "issued")),
        encode(7),
        encode(shape.uint(expires, "expires")),
    )
    return _fitting(b"".join(parts))


@dataclass(frozen=True)
class Command:
    """A one-shot command. args: numbers, None when the verb takes none. expires: 0 = never."""

    device_id: str
    counter: int
    trust_version: int
    verb: CommandVerb
    issued: int
    expires: int = 0
    args: tuple[int, ...] | None = None

    def encode(self) -> bytes:
        """The deterministic payload bytes. Raises DesiredError as `parse` does."""
        item: dict[int, Any] = {
            0: 1,
            1: self.device_id,
            2: self.counter,
            3: self.trust_version,
            4: int(self.verb),
            6: self.issued,
            7: self.expires,
        }
        if self.args is not None:
            item[5] = list(self.args)
        fields, shape = _checked(item, "cmd", required=(0, 1, 2, 3, 4, 6, 7), optional=(5,))
        Command._read(fields, shape)
        return _fitting(encode(item))

    @classmethod
    def parse(cls, payload: bytes) -> Command:
        """Read and check a payload, whoever signed it.

        Raises DesiredError `too_large`, `schema`, `sequence` for a counter of another trust version, and
        `unknown_action` for a verb that version 1 lacks.
        """
        fields, shape = _open(payload, "cmd", required=(0, 1, 2, 3, 4, 6, 7), optional=(5,))
        return cls._read(fields, shape)

    @classmethod
    def _read(cls, fields: dict[int, Any], shape: Shape) -> Command:
        verb = shape.uint(fields[4], "verb")
        if verb not in CommandVerb.__members__.values():
            raise DesiredError("unknown_action", f"verb {verb} is not known")
        args = None
        if 5 in fields:
            args = tuple(shape.uint(arg, "argument") for arg in shape.array(fields[5], "arguments", most=8))
        return cls(
            device_id=_device_id(fields[1], shape),
            counter=fields[2],
            trust_version=fields[3],
            verb=CommandVerb(verb),
            args=args,
            issued=shape.uint(fields[6], "issued"),
            expires=shape.uint(fields[7], "expires"),
        )


def next_counter(trust_version: int, now_s: int, stored: int = 0, reported: int = 0) -> int:
    """The counter to sign next: from the clock, but above what we stored and what the device reported.

    Desired documents and commands count apart. Raises DesiredError `sequence` when the counters of this trust
    version are used up or burned, which the next trust version heals, and ValueError for arguments out of
    range.
    """
    if not 1 <= trust_version <= MAX_VERSION or not 0 <= now_s < 2**_TIME_BITS:
        raise ValueError("trust version or time out of range")
    base = trust_version << (_TIME_BITS + _N_BITS) | now_s << _N_BITS
    counter = max(base, stored + 1, reported + 1)
    if counter >> (_TIME_BITS + _N_BITS) != trust_version:
        raise DesiredError("sequence", f"no counter of trust version {trust_version} is above {counter - 1}")
    return counter


def last_counter(trust_version: int) -> int:
    """Highest counter of a trust version. A device that reported it, or more, can be told nothing before the
    next version.
    """
    return (trust_version + 1 << _TIME_BITS + _N_BITS) - 1


def counter_trust_version(counter: int) -> int:
    """The trust version in a counter's top bits."""
    return counter >> (_TIME_BITS + _N_BITS)


def sign_desired(desired: Desired, signer: cose.Signer, *, installation_id: bytes) -> bytes:
    """The signed message for `f1/dev/<device>/desired`.

    Raises DesiredError as `Desired.parse`, and `config_invalid` for configuration a device would not take.
    """
    check_config(desired.config)
    return sign_payload(desired.device_id, desired.encode(), signer, installation_id=installation_id)


def check_config(config: Mapping[int, Any]) -> None:
    """Raise DesiredError `config_invalid` for configuration that a device would not take."""
    if invalid := config_errors(config):
        raise DesiredError("config_invalid", f"configuration keys {invalid} are unknown or out of range")


def sign_payload(device_id: str, payload: bytes, signer: cose.Signer, *, installation_id: bytes) -> bytes:
    """The signed message of a payload that `encode_payload` made for this device. Raises DesiredError
    `too_large`.
    """
    aad = cose.external_aad(installation_id, topics.desired(device_id))
    with refusing_as(DesiredError):
        return cose.sign1("desired", payload, signer, aad=aad)


def sign_command(command: Command, signer: cose.Signer, *, installation_id: bytes) -> bytes:
    """The signed message for `f1/dev/<device>/cmd`. Raises DesiredError as `Command.parse`."""
    aad = cose.external_aad(installation_id, topics.cmd(command.device_id))
    with refusing_as(DesiredError):
        return cose.sign1("cmd", command.encode(), signer, aad=aad)


def verify_desired(
    message: bytes, *, device_id: str, installation_id: bytes, trust: TrustDocument, last_counter: int = 0
) -> Desired:
    """Accept a desired document as the device does. Expiry is no refusal: the device reports `stale`.

    last_counter: highest accepted; the same document again is the caller's to recognise by its bytes.
    Raises DesiredError `too_large`, `schema`, `signature`, `trust`, `sequence`, `unknown_action`.
    """
    aad = cose.external_aad(installation_id, topics.desired(device_id))
    with refusing_as(DesiredError):
        payload = cose.verify1("desired", message, trust.live_online(), aad=aad)
    desired = Desired.parse(payload)
    _check_addressed(desired, device_id, trust, last_counter)
    return desired


def verify_command(
    message: bytes,
    *,
    device_id: str,
    installation_id: bytes,
    trust: TrustDocument,
    last_counter: int = 0,
    now_s: int | None = None,
) -> Command:
    """Accept a command as the device does. now_s: judge expiry at this time, None leaves it out.

    Raises DesiredError `too_large`, `schema`, `signature`, `trust`, `sequence`, `expired`, `unknown_action`.
    """
    aad = cose.external_aad(installation_id, topics.cmd(device_id))
    with refusing_as(DesiredError):
        payload = cose.verify1("cmd", message, trust.live_online(), aad=aad)
    command = Command.parse(payload)
    _check_addressed(command, device_id, trust, last_counter)
    if now_s is not None and command.expires != 0 and now_s >= command.expires:
        raise DesiredError("expired", "the command has expired")
    return command


_LAST_ACTION = max(Action)
_PAYLOAD_HEAD = b"\xa8" + encode(0) + encode(1) + encode(1)  # a map of eight; format 1; the device id follows


def _open(
    payload: bytes, what: str, *, required: Any, optional: tuple[int, ...] = ()
) -> tuple[dict[int, Any], Shape]:
    """Decode, check format, counter and trust version."""
    with refusing_as(DesiredError):
        item = decode_strict(payload, max_bytes=cose.MAX_SIGNED_BYTES, code="schema")
    return _checked(item, what, required=required, optional=optional)


def _fitting(payload: bytes) -> bytes:
    if len(payload) > cose.MAX_SIGNED_BYTES:
        raise DesiredError("too_large", f"{len(payload)} bytes, at most {cose.MAX_SIGNED_BYTES} are read")
    return payload


def _checked(
    item: Any, what: str, *, required: Any, optional: tuple[int, ...] = ()
) -> tuple[dict[int, Any], Shape]:
    shape = document_shape(DesiredError)
    fields = shape.map(item, what, required=required, optional=optional)
    shape.integer(fields[0], "format", 1, 1)
    _check_counter(fields[2], fields[3], shape)
    return fields, shape


def _check_counter(counter: Any, trust_version: Any, shape: Shape) -> None:
    shape.uint(counter, "counter", MAX_UINT)
    shape.integer(trust_version, "trust version", 1, MAX_VERSION)
    if counter_trust_version(counter) != trust_version:
        raise DesiredError("sequence", "the counter is not one of its trust version")


def _read_body(entries: Any, config: Any, shape: Shape) -> tuple[dict[int, DesiredEntry], dict[int, Any]]:
    """Entries and configuration of decoded keys 4 and 5."""
    if type(entries) is not dict:
        raise shape.fail("entries are not a map")
    if type(config) is not dict or any(type(key) is not int for key in config):
        raise shape.fail("configuration is not a map with numbers as keys")
    told = {shape.uint(slot, "slot", MAX_SLOT): _parse_entry(entry, shape) for slot, entry in entries.items()}
    return told, {key: tuple(value) if type(value) is list else value for key, value in config.items()}


def _device_id(value: Any, shape: Shape) -> str:
    device_id = shape.text(value, "device id", least=1, most=32)
    if not topics.is_device_id(device_id):
        raise shape.fail("malformed device id")
    return device_id


def _entry_item(entry: DesiredEntry) -> list[Any]:
    return [int(entry.action), entry.manifest_id, entry.not_before, entry.deadline, entry.attempt]


def _parse_entry(value: Any, shape: Shape) -> DesiredEntry:
    part = shape.array(value, "entry", least=5, most=5)
    action = shape.uint(part[0], "action")
    if action > _LAST_ACTION:
        raise DesiredError("unknown_action", f"action {action} is not known")
    digest = shape.raw(part[1], "manifest id", 32)
    if (action == Action.STOP) != (digest == NO_DIGEST):
        raise shape.fail("only a stop names no manifest")
    return DesiredEntry(
        action=Action(action),
        manifest_id=digest,
        not_before=shape.uint(part[2], "not_before"),
        deadline=shape.uint(part[3], "deadline"),
        attempt=shape.uint(part[4], "attempt", UINT16_MAX),
    )


def _check_addressed(
    document: Desired | Command, device_id: str, trust: TrustDocument, last_counter: int
) -> None:
    if document.device_id != device_id:
        raise DesiredError("signature", "signed for this topic but names another device")
    if document.trust_version != trust.version:
        raise DesiredError("trust", f"needs trust version {document.trust_version}, held is {trust.version}")
    if document.counter <= last_counter:
        raise DesiredError("sequence", "the counter is not above the last accepted one")
