"""Devices, and what they would send, for tests."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from fleet.accounts.audit import Actor
from fleet.devices import classes, enrolment
from fleet.devices.enrolment import EnrolmentRequest, TrustAnchor
from fleet.devices.installation import ensure_installation
from fleet.mqtt import topics
from fleet.mqtt.client import Arrived
from fleet.mqtt.codec.envelope import seal_uplink
from fleet.mqtt.codec.event import Event, encode_event
from fleet.mqtt.codec.names import BankFlag, Chip, RefusalCode, ResetReason, UpdateState
from fleet.mqtt.codec.reported import BankReport, Reported, SlotReport, encode_reported
from fleet.mqtt.codec.telemetry import Batch, encode_batch

ANCHOR = TrustAnchor((b"\1" * 32, b"\2" * 32, b"\3" * 32), 2, 1)
CONSOLE = Actor("user", "admin")
BANK = BankReport(b"\xaa" * 16, 3, 0, BankFlag(0))


def request(token: str, device_id: str = "dev-1", **changes: str) -> EnrolmentRequest:
    """A well-formed enrolment request of a host-a device."""
    fields = {"token": token, "device_id": device_id, "class": "host-a", "chip": "host", "firmware": "1.0.0"}
    return EnrolmentRequest.parse({**fields, **changes})


@dataclass
class Board:
    """An enrolled device and its secrets; says things as the firmware would."""

    id: str
    installation: bytes
    mac_key: bytes
    secret: str

    def message(self, kind: str, payload: bytes, *, retained: bool = False, topic: str = "") -> Arrived:
        """A sealed uplink as it arrives."""
        topic = topic or topics.device(self.id, kind)
        sealed = seal_uplink(kind, payload, topic=topic, installation_id=self.installation, key=self.mac_key)
        return Arrived(topic, sealed, retained, 0, 1)

    def reported(self, report: Reported, *, retained: bool = False) -> Arrived:
        """A reported document."""
        return self.message("reported", encode_reported(report), retained=retained)

    def telemetry(self, batch: Batch) -> Arrived:
        """A telemetry batch."""
        return self.message("telemetry", encode_batch(batch))

    def event(self, event: Event) -> Arrived:
        """An event."""
        return self.message("event", encode_event(event))

    def online(self, is_online: bool, *, retained: bool = False) -> Arrived:
        """What `online` carries."""
        payload = topics.ONLINE if is_online else topics.OFFLINE
        return Arrived(topics.device(self.id, "online"), payload, retained, 0, 1)


def make_board(device_id: str, now: datetime, *, device_class: str = "host-a") -> Board:
    """Enrol a device the way boards do."""
    classes.ensure_default_classes(now)
    installation = ensure_installation(now)
    (token,) = enrolment.create_tokens(device_class, [device_id], actor=CONSOLE, now=now)
    answer = enrolment.enrol(request(token, device_id, **{"class": device_class}), anchor=ANCHOR, now=now)
    return Board(device_id, installation, bytes.fromhex(answer["mac_key"]), answer["broker"]["password"])


def make_report(boot: int = 1, n: int = 1, *, slot: SlotReport | None = None, **changes: Any) -> Reported:
    """A reported document of a host-a device that runs a confirmed model."""
    report = Reported(
        boot=boot,
        n=n,
        unix_s=1_777_000_000,
        class_id=classes.class_id("host-a", *_HOST_A),
        firmware=(1, 0, 0),
        chip=Chip.HOST,
        trust_version=1,
        desired_counter=7,
        command_counter=0,
        is_stale=False,
        reset_reason=ResetReason.POWER,
        reset_raw=0,
        free_heap_bytes=100_000,
        slots={0: slot or SlotReport(UpdateState.CONFIRMED, target=BANK.manifest_id, run_bank=BANK)},
        config_invalid=(),
        operators=(3, 9),
        firmware_text="1.0.0",
        esp_nn="",
        refusal=RefusalCode.NONE,
        refusal_detail=0,
    )
    return replace(report, **changes)


_HOST_A = next(
    (one.chip, one.arena_bytes, one.slot_bytes, one.operators, one.esp_nn_version)
    for one in classes.DEFAULT_CLASSES
    if one.name == "host-a"
)
