"""A device of the rig's identity on the emulated chip, and what the broker holds for it."""

from __future__ import annotations

from device_firmware.host.core import encode_operators
from device_firmware.host.rv32.bench import Script
from fleet.mqtt import topics
from fleet.mqtt.codec.names import Action
from ota.desired import DesiredEntry
from tests.firmware import rig, scenario


def device(*, capacity: int = 100 * 4096) -> Script:
    """A blank device that has booted; two release keys of two must sign for it."""
    script = Script()
    script.identity(
        rig.DEVICE,
        installation_id=rig.INSTALLATION,
        class_id=rig.CLASS_ID,
        mac_key=rig.MAC_KEY,
        roots=[key.public_key for key in rig.ROOTS],
        root_threshold=2,
        capacity=capacity,
        operators=encode_operators(rig.OPERATORS),
    )
    script.clock(1000, rig.NOW)
    script.boot()
    release = (rig.RELEASE.public_key, rig.RELEASE2.public_key)
    script.retain(topics.TRUST, rig.signed_trust(rig.trust(release=release, release_threshold=2)))
    return script


def signed(seq: int, *, size: int, floor: int = 0, blob: bool = False) -> rig.Artifact:
    """A model that both release keys signed."""
    signers = (rig.RELEASE, rig.RELEASE2)
    return rig.artifact(seq, size=size, floor=floor, signers=signers, force_blob=blob)


def publish(script: Script, item: rig.Artifact) -> None:
    """The broker holds the manifest, the leaf list and every chunk."""
    for topic, payload in item.publications().items():
        script.retain(topic, payload)


def want(script: Script, item: rig.Artifact, number: int) -> int:
    """The desired document arrives."""
    entry = DesiredEntry(Action.RUN, item.id, attempt=number)
    return script.message(topics.desired(rig.DEVICE), scenario.desired(number, entry))
