"""A device of the rig's identity on the emulated chip, and what the broker holds for it."""

from __future__ import annotations

from device_firmware.host.core import encode_operators
from device_firmware.host.rv32.bench import Script
from fleet.mqtt import topics
from fleet.mqtt.codec.names import Action
from ota.desired import DesiredEntry
from tests.firmware import artifacts, scenario


def device(*, capacity: int = 100 * 4096) -> Script:
    """A blank device that has booted; two release keys of two must sign for it."""
    script = Script()
    script.identity(
        artifacts.DEVICE,
        installation_id=artifacts.INSTALLATION,
        class_id=artifacts.CLASS_ID,
        mac_key=artifacts.MAC_KEY,
        roots=[key.public_key for key in artifacts.ROOTS],
        root_threshold=2,
        capacity=capacity,
        operators=encode_operators(artifacts.OPERATORS),
    )
    script.clock(1000, artifacts.NOW)
    script.boot()
    release = (artifacts.RELEASE.public_key, artifacts.RELEASE2.public_key)
    script.retain(topics.TRUST, artifacts.signed_trust(artifacts.trust(release=release, release_threshold=2)))
    return script


def signed(seq: int, *, size: int, floor: int = 0, blob: bool = False) -> artifacts.Artifact:
    """A model that both release keys signed."""
    signers = (artifacts.RELEASE, artifacts.RELEASE2)
    return artifacts.artifact(seq, size=size, floor=floor, signers=signers, force_blob=blob)


def publish(script: Script, item: artifacts.Artifact) -> None:
    """The broker holds the manifest, the leaf list and every chunk."""
    for topic, payload in item.publications().items():
        script.retain(topic, payload)


def want(script: Script, item: artifacts.Artifact, number: int) -> int:
    """The desired document arrives."""
    entry = DesiredEntry(Action.RUN, item.id, attempt=number)
    return script.message(topics.desired(artifacts.DEVICE), scenario.desired(number, entry))
