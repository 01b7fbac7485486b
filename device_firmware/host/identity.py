"""What a virtual device knows about itself: claimed once over HTTPS with a one-time token, then kept in
its folder.

SPEC.md section 10 is the exchange. A real board keeps the same values in NVS; here they are
`identity.json`, mode 0600.
"""

import dataclasses
import json
import os
import re
import ssl
import time
from pathlib import Path
from typing import Any

import httpx

_DEVICE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_CUSTOM = 32  # the builtin code that stands before a custom operator's name
_PAUSE_S, _PAUSE_MAX_S = 0.2, 5.0
Operator = int | tuple[int, str]


class EnrolError(Exception):
    """Enrolment was refused. `code` is the backend's (`token_used`, `token_expired`, `unknown_class`, ...)
    or `unreachable`,
    `insecure_url`, `bad_answer`.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


@dataclasses.dataclass(frozen=True)
class Ticket:
    """One line of `manage.py devices enrol`: a device's one-time permission to enrol, and where."""

    device_id: str
    token: str
    device_class: str
    url: str

    @classmethod
    def parse(cls, line: str) -> "Ticket":
        """Read a JSON line. Raises ValueError when a field is missing or of the wrong type.

        The device id becomes a folder's name: anything but SPEC.md's letters is refused here.
        """
        raw = json.loads(line)
        if not isinstance(raw, dict):
            raise ValueError("a ticket is one JSON object a line")
        fields = []
        for key in ("device_id", "token", "class", "url"):
            if not isinstance(raw.get(key), str) or not raw[key]:
                raise ValueError(f"a ticket needs {key}")
            fields.append(raw[key])
        if not _DEVICE_ID.fullmatch(fields[0]):
            raise ValueError(f"{fields[0]!r} is no device id")
        return cls(*fields)


def read_tickets(path: Path) -> list[Ticket]:
    """Tickets of a file of JSON lines. Raises ValueError naming the first bad line, OSError for no file."""
    tickets = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip():
            try:
                tickets.append(Ticket.parse(line))
            except ValueError as error:
                raise ValueError(f"{path.name}:{number}: {error}") from None
    return tickets


@dataclasses.dataclass(frozen=True)
class Identity:
    """Names, keys and limits of one device. Byte fields are hex in the file."""

    device_id: str
    installation_id: bytes
    class_id: bytes
    device_class: str
    chip: str
    firmware: str
    esp_nn: str
    arena_bytes: int
    slot_bytes: tuple[int, ...]
    operators: tuple[Operator, ...]
    broker_host: str
    broker_port: int
    broker_ca: str
    broker_user: str
    broker_secret: str
    mac_key: bytes
    roots: tuple[bytes, ...]
    root_threshold: int
    least_trust_version: int

    def save(self, path: Path) -> None:
        """Write atomically, readable by the owner only."""
        raw: dict[str, Any] = dataclasses.asdict(self)
        for key in ("installation_id", "class_id", "mac_key"):
            raw[key] = raw[key].hex()
        raw["roots"] = [root.hex() for root in self.roots]
        part = path.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(raw, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Identity":
        """Read what `save` wrote."""
        raw = json.loads(path.read_text())
        for key in ("installation_id", "class_id", "mac_key"):
            raw[key] = bytes.fromhex(raw[key])
        raw["roots"] = tuple(bytes.fromhex(root) for root in raw["roots"])
        raw["slot_bytes"] = tuple(raw["slot_bytes"])
        raw["operators"] = _operators(raw["operators"])
        return cls(**raw)


FIRMWARE = "1.0.0"
ESP_NN = ""


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """How the backend's HTTPS is checked: against `ca_file`, or the system's authorities. Raises OSError."""
    return ssl.create_default_context(cafile=ca_file)


def claim(ticket: Ticket, *, tls: ssl.SSLContext, attempts: int = 8) -> Identity:
    """Exchange a one-time token for an identity; retries while the backend cannot be reached.

    Raises EnrolError with the backend's code, `insecure_url` for anything but HTTPS, `bad_answer`, or
    `unreachable` after `attempts` tries with doubling pauses from 0.2 s. A repeated request with the same
    token
    is answered alike (SPEC.md section 10), so a lost reply costs nothing.
    """
    if not ticket.url.startswith("https://"):
        raise EnrolError("insecure_url", "keys are handed out over HTTPS only")
    body = {
        "token": ticket.token,
        "device_id": ticket.device_id,
        "class": ticket.device_class,
        "chip": "host",
        "firmware": FIRMWARE,
    }
    last = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(min(_PAUSE_MAX_S, _PAUSE_S * 2 ** (attempt - 1)))
        try:
            answer = httpx.post(f"{ticket.url}/api/v1/enrol", json=body, verify=tls, timeout=10)
        except httpx.TransportError as error:
            last = str(error)
            continue
        if answer.status_code >= 500 or answer.status_code == 429:
            last = f"HTTP {answer.status_code}"
            continue
        return _judged(ticket, answer)
    raise EnrolError("unreachable", f"{ticket.url} did not answer in {attempts} tries: {last}")


def _judged(ticket: Ticket, answer: httpx.Response) -> Identity:
    try:
        said = answer.json()
        if answer.status_code == 201:
            return _identity(ticket, said)
        code, detail = str(said["code"]), str(said.get("detail", ""))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EnrolError("bad_answer", f"HTTP {answer.status_code}: {error!r}") from error
    raise EnrolError(code, detail)


def _identity(ticket: Ticket, answer: dict[str, Any]) -> Identity:
    broker = answer["broker"]
    described = answer["class"]
    return Identity(
        device_id=answer["device_id"],
        installation_id=bytes.fromhex(answer["installation_id"]),
        class_id=bytes.fromhex(answer["class_id"]),
        device_class=ticket.device_class,
        chip="host",
        firmware=FIRMWARE,
        esp_nn=described["esp_nn_version"],
        arena_bytes=described["arena_bytes"],
        slot_bytes=tuple(described["slot_bytes"]),
        operators=_operators(described["operators"]),
        broker_host=broker["host"],
        broker_port=broker["port"],
        broker_ca=broker["ca_pem"],
        broker_user=broker["username"],
        broker_secret=broker["password"],
        mac_key=bytes.fromhex(answer["mac_key"]),
        roots=tuple(bytes.fromhex(root) for root in answer["roots"]),
        root_threshold=answer["root_threshold"],
        least_trust_version=answer["least_trust_version"],
    )


def _operators(items: list[Any]) -> tuple[Operator, ...]:
    """Builtin codes rising, then custom operators by name, which JSON carries as `name` or `[32, name]`."""
    builtin = sorted({item for item in items if isinstance(item, int)})
    named = {item if isinstance(item, str) else str(item[1]) for item in items if not isinstance(item, int)}
    return (*builtin, *((_CUSTOM, name) for name in sorted(named)))
