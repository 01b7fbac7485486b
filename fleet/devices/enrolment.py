"""Enrolment: a one-time token becomes a device with a broker secret and a MAC key (SPEC.md section 10).

Secrets are made here, sent once over HTTPS and kept only sealed. The same token with an unchanged request
repeats the answer for ten minutes, so that a lost reply strands no device; after that, or with another
request, it is used.
"""

import dataclasses
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from django.conf import settings
from django.db import IntegrityError, transaction

from fleet import announcing
from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.devices import broker, classes, keys
from fleet.devices.errors import ClassError, EnrolmentError
from fleet.devices.installation import installation_id
from fleet.devices.models import Device, DeviceClass, DeviceCredential, DeviceEvent, EnrolmentToken
from fleet.devices.trust_anchor import TrustAnchor
from fleet.devices.version_order import version_key
from fleet.mqtt.broker_files import BrokerFilesError, hash_secret
from fleet.mqtt.codec.cose import MAC_KEY_BYTES, mac_kid
from fleet.mqtt.topics import is_device_id
from fleet.sealing import seal, unseal

TOKEN_TTL_S: Final = 24 * 3600
REPEAT_S: Final = 600
MAX_TOKENS: Final = 100_000
_FIELDS: Final[Mapping[str, int]] = {"token": 128, "device_id": 32, "class": 32, "chip": 16, "firmware": 24}


@dataclasses.dataclass(frozen=True)
class EnrolmentRequest:
    """A parsed request of SPEC.md section 10."""

    token: str
    device_id: str
    device_class: str
    chip: str
    firmware: str

    @classmethod
    def parse(cls, body: Any) -> "EnrolmentRequest":
        """Read a decoded JSON body. Raises EnrolmentError `validation`, naming the field."""
        if not isinstance(body, dict):
            raise EnrolmentError("validation", "the body is not a JSON object")
        for field in body:
            if field not in _FIELDS:
                raise EnrolmentError(
                    "validation", f"unknown field {str(field)[:40]!r}", field=str(field)[:40]
                )
        for field, limit in _FIELDS.items():
            value = body.get(field)
            if not isinstance(value, str) or not 1 <= len(value) <= limit or not value.isprintable():
                raise EnrolmentError("validation", f"{field} is text of 1..{limit} characters", field=field)
        if not is_device_id(body["device_id"]):
            raise EnrolmentError(
                "validation",
                "a device id is 1..32 of a-z, 0-9 and -, not starting with -",
                field="device_id",
            )
        return cls(body["token"], body["device_id"], body["class"], body["chip"], body["firmware"])

    def digest(self) -> str:
        """SHA-256 of the request, hex: tells a repeated request from another one."""
        raw = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(raw.encode()).hexdigest()


def create_tokens(
    device_class: DeviceClass | str,
    ids: int | Sequence[str],
    *,
    actor: Actor,
    now: datetime,
    ttl_s: int = TOKEN_TTL_S,
) -> list[str]:
    """One-time tokens for boards of a class, in the order of `ids`.

    ids: device ids the tokens are bound to, or how many tokens to make for devices that name themselves.
    ttl_s: seconds until they expire, unused. Only digests are kept: this is the one time the tokens are seen.
    Raises EnrolmentError `unknown_class`, `validation` for a malformed or doubled id, a count outside
    1..100,000 or a time to live outside 1 s..1 year, and `device_exists` for an id that is enrolled.
    """
    if isinstance(device_class, str):
        device_class = _class(device_class)
    names = [""] * ids if isinstance(ids, int) else list(ids)
    if not 1 <= len(names) <= MAX_TOKENS:
        raise EnrolmentError("validation", f"{len(names):,} tokens asked for, 1 to {MAX_TOKENS:,} are made")
    if not 1 <= ttl_s <= 366 * 86_400:
        raise EnrolmentError("validation", "a token lives 1 second to 1 year", field="ttl_s")
    bound = [name for name in names if name]
    for name in bound:
        if not is_device_id(name):
            raise EnrolmentError("validation", f"{name[:40]!r} is no device id", field="device_id")
    if len(set(bound)) != len(bound):
        raise EnrolmentError("validation", "a device id is listed twice", field="device_id")
    taken = Device.objects.filter(pk__in=bound).order_by("pk").values_list("pk", flat=True).first()
    if taken is not None:
        raise EnrolmentError("device_exists", f"device {taken} is enrolled already", field="device_id")
    tokens = [f"tfe_{secrets.token_urlsafe(32)}" for _ in names]
    expires_at = now + timedelta(seconds=ttl_s)
    rows = [
        EnrolmentToken(
            digest=_token_digest(token),
            device_class=device_class,
            device_id=name,
            created_at=now,
            created_by=actor.name,
            expires_at=expires_at,
        )
        for token, name in zip(tokens, names, strict=True)
    ]
    with transaction.atomic():
        EnrolmentToken.objects.bulk_create(rows, batch_size=1000)
        audit.record(
            actor=actor,
            verb="enrolment_token.create",
            subject_kind="device_class",
            subject_id=device_class.name,
            at=now,
            after={"count": len(rows), "expires_at": expires_at.isoformat(), "devices": bound[:100]},
        )
    return tokens


def enrol(
    request: EnrolmentRequest,
    *,
    anchor: TrustAnchor,
    now: datetime,
    request_id: str = "",
    source_ip: str = "",
) -> dict[str, Any]:
    """Make the device and its keys, let it in at the broker, and return the answer of SPEC.md section 10.

    request_id, source_ip: of the HTTP request, for the audit trail.
    Two callers with one token: one makes the device; the other gets the same answer when its request is the
    same. Raises EnrolmentError `token_unknown`, `token_used`, `token_expired`, `unknown_class`, `validation`,
    `device_exists` (the token stays usable), and `unavailable` when the broker's password file cannot be
    written: asking again with the same request finishes the enrolment.
    """
    token = EnrolmentToken.objects.filter(digest=_token_digest(request.token)).first()
    if token is None:
        raise EnrolmentError("token_unknown", "no such enrolment token")
    if token.used_at is None:
        _check(request, token, now)
        by = Actor("device", request.device_id, request_id=request_id, source_ip=source_ip)
        if not _claim(request, token, by, now):
            token.refresh_from_db()
    credential, secret, mac_key = _issued(request, token, now)
    try:
        broker.ensure(request.device_id, credential.broker_secret_hash)
    except (BrokerFilesError, OSError) as error:
        raise EnrolmentError(
            "unavailable", f"the broker's password file cannot be written: {error}"
        ) from error
    return _answer(request, anchor, credential.device.device_class, secret, mac_key)


def _check(request: EnrolmentRequest, token: EnrolmentToken, now: datetime) -> None:
    if token.expires_at <= now:
        raise EnrolmentError("token_expired", f"this token expired at {token.expires_at:%Y-%m-%d %H:%M} UTC")
    described = _class(request.device_class)
    if described.name != token.device_class_id:
        raise EnrolmentError("validation", f"this token is for class {token.device_class_id}", field="class")
    if request.chip != described.chip:
        raise EnrolmentError("validation", f"class {described.name} has chip {described.chip}", field="chip")
    if token.device_id and request.device_id != token.device_id:
        raise EnrolmentError("validation", "this token is for another device id", field="device_id")


def _claim(request: EnrolmentRequest, token: EnrolmentToken, by: Actor, now: datetime) -> bool:
    """Use the token and make the device in one transaction; False when another caller used it in between."""
    device_id = request.device_id
    mac_key, secret = secrets.token_bytes(MAC_KEY_BYTES), secrets.token_hex(32)
    try:
        with transaction.atomic(durable=True):  # the broker is given what is committed
            unused = EnrolmentToken.objects.filter(pk=token.pk, used_at__isnull=True)
            if unused.update(used_at=now, used_by=device_id, request_digest=request.digest()) != 1:
                return False
            device = Device(
                id=device_id,
                device_class_id=token.device_class_id,
                enrolled_at=now,
                firmware_version=request.firmware,
                firmware_key=version_key(request.firmware),
                chip=request.chip,
            )
            device.save(force_insert=True)
            DeviceCredential.objects.create(
                device=device,
                mac_kid=mac_kid(mac_key).hex(),
                sealed_mac_key=_seal(mac_key, keys.mac_purpose(device_id)),
                sealed_broker_secret=_seal(secret.encode(), keys.broker_purpose(device_id)),
                broker_secret_hash=hash_secret(secret),
                created_at=now,
            )
            DeviceEvent.objects.create(
                device=device, at=now, kind="enrolled", text=f"enrolled as {token.device_class_id}"
            )
            audit.record(
                actor=by,
                verb="device.enrol",
                subject_kind="device",
                subject_id=device_id,
                at=now,
                after={"class": token.device_class_id, "token": token.pk},
            )
            if announcing.is_asked(announcing.DEVICE_ENROLLED):
                announcing.note([_fact(device, now)])
    except IntegrityError:
        raise EnrolmentError(
            "device_exists", f"device {device_id} is enrolled already", field="device_id"
        ) from None
    token.used_at, token.used_by, token.request_digest = now, device_id, request.digest()
    return True


def _fact(device: Device, now: datetime) -> announcing.Fact:
    """What is told outside: a factory enrols thousands, so devices of a class are told of together."""
    name = device.device_class_id
    item = {
        "device": device.pk,
        "chip": device.chip,
        "firmware": device.firmware_version,
        "at": now.isoformat(),
    }
    return announcing.Fact(
        announcing.DEVICE_ENROLLED, "devices", name, now, device.firmware_version, item, {"class": name},
        f"/devices?class={quote(name)}", f"/api/v1/devices?class={quote(name)}",
    )  # fmt: skip


def _issued(
    request: EnrolmentRequest, token: EnrolmentToken, now: datetime
) -> tuple[DeviceCredential, str, bytes]:
    """Credential, broker secret and MAC key that this very request was given."""
    used_at = token.used_at or now
    is_repeat = (
        token.used_by == request.device_id
        and token.request_digest == request.digest()
        and now - used_at <= timedelta(seconds=REPEAT_S)
    )
    credential = (
        DeviceCredential.objects.select_related("device__device_class")
        .filter(device_id=token.used_by, revoked_at__isnull=True, created_at=used_at)
        .first()
    )
    if not is_repeat or credential is None:
        raise EnrolmentError("token_used", "this token was used: ask for a new one")
    device_id = request.device_id
    secret = _unseal(credential.sealed_broker_secret, keys.broker_purpose(device_id)).decode()
    return credential, secret, _unseal(credential.sealed_mac_key, keys.mac_purpose(device_id))


def _answer(
    request: EnrolmentRequest, anchor: TrustAnchor, described: DeviceClass, secret: str, mac_key: bytes
) -> dict[str, Any]:
    ca = str(settings.MQTT["ca"])
    return {
        "device_id": request.device_id,
        "installation_id": installation_id().hex(),
        "broker": {
            "host": settings.MQTT_PUBLIC["host"],
            "port": settings.MQTT_PUBLIC["port"],
            "ca_pem": Path(ca).read_text() if ca else "",
            "username": request.device_id,
            "password": secret,
        },
        "mac_key": mac_key.hex(),
        "roots": [root.hex() for root in anchor.roots],
        "root_threshold": anchor.threshold,
        "least_trust_version": anchor.least_version,
        "class_id": described.class_id,
        "class": classes.to_wire(described),
    }


def _class(name: str) -> DeviceClass:
    try:
        return classes.get_class(name)
    except ClassError as error:
        raise EnrolmentError(error.code, error.text, field=error.field) from None


def _token_digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _seal(secret: bytes, purpose: str) -> bytes:
    return seal(secret, purpose=purpose, passphrase=settings.KEY_PASSPHRASE)


def _unseal(sealed: bytes | memoryview, purpose: str) -> bytes:
    return unseal(bytes(sealed), purpose=purpose, passphrase=settings.KEY_PASSPHRASE)


__all__ = ["EnrolmentError", "EnrolmentRequest", "TrustAnchor", "create_tokens", "enrol"]
