"""Topic names of protocol 1 (SPEC.md section 4): builders for what goes down, a parser for what comes up."""

from __future__ import annotations

import re
from typing import Final

from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.names import DEVICE_ID_RE as DEVICE_ID_RE
from fleet.mqtt.codec.names import DISPLAY_VERSION_RE as DISPLAY_VERSION_RE
from fleet.mqtt.codec.names import MODEL_NAME_RE as MODEL_NAME_RE
from fleet.mqtt.codec.names import is_device_id as is_device_id
from fleet.mqtt.codec.names import is_display_version as is_display_version
from fleet.mqtt.codec.names import is_model_name as is_model_name

PREFIX: Final = "f1"
MID_RE: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
SEGMENT_CHUNKS: Final = 16
DOWNLINK_KINDS: Final = ("desired", "cmd")
UPLINK_KINDS: Final = ("reported", "telemetry", "event", "online")
TRUST: Final = f"{PREFIX}/trust"
ONLINE: Final = b"\xa1\x00\x01"
OFFLINE: Final = b"\xa1\x00\x00"
MAX_TOPIC_CHARS: Final = 64


def trust_version(version: int) -> str:
    """Topic of one version in the chain of trust documents."""
    return f"{TRUST}/{version}"


def manifest(mid: str) -> str:
    """Topic of a model version's signed manifest."""
    return f"{PREFIX}/model/{_mid(mid)}/manifest"


def leaves(mid: str) -> str:
    """Topic of a model version's leaf list."""
    return f"{PREFIX}/model/{_mid(mid)}/leaves"


def chunk(mid: str, index: int) -> str:
    """Topic of the chunk with this index; its segment is index / 16."""
    return f"{PREFIX}/model/{_mid(mid)}/{index // SEGMENT_CHUNKS}/{index}"


def model_filter(mid: str) -> str:
    """Subscription filter for everything a model version has retained."""
    return f"{PREFIX}/model/{_mid(mid)}/#"


def segment_filter(mid: str, segment: int) -> str:
    """Subscription filter for the chunks of one segment."""
    return f"{PREFIX}/model/{_mid(mid)}/{segment}/+"


def device(device_id: str, kind: str) -> str:
    """Topic of a device's desired, cmd, reported, telemetry, event or online.

    Raises CodecError `topic_bad` for a malformed id or another kind: a caller must never publish to a
    wildcard.
    """
    if not is_device_id(device_id):
        raise CodecError("topic_bad", "malformed device id")
    if kind not in DOWNLINK_KINDS and kind not in UPLINK_KINDS:
        raise CodecError("topic_bad", "unknown kind of device topic")
    return f"{PREFIX}/dev/{device_id}/{kind}"


def desired(device_id: str) -> str:
    """Topic of a device's desired document."""
    return device(device_id, "desired")


def cmd(device_id: str) -> str:
    """Topic of a device's commands."""
    return device(device_id, "cmd")


def uplink_filter(kind: str, *, share: str = "") -> str:
    """Subscription filter for one uplink kind of all devices; `share`: shared group, named with a secret."""
    plain = f"{PREFIX}/dev/+/{kind}"
    return f"$share/{share}/{plain}" if share else plain


def parse_uplink(topic: str) -> tuple[str, str]:
    """(device id, kind) of an uplink topic; kind is reported, telemetry, event or online.

    Raises CodecError `topic_bad` for every other topic.
    """
    parts = topic.split("/") if len(topic) <= MAX_TOPIC_CHARS else []
    is_uplink = len(parts) == 4 and parts[:2] == [PREFIX, "dev"] and parts[3] in UPLINK_KINDS
    if not is_uplink or not is_device_id(parts[2]):
        raise CodecError("topic_bad", "not an uplink topic of a device")
    return parts[2], parts[3]


def _mid(mid: str) -> str:
    if MID_RE.fullmatch(mid) is None:
        raise CodecError("topic_bad", "a mid is 16 lower-case hex digits")
    return mid
