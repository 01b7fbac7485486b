"""The broker as a dictionary of retained desired documents, which may go away while they are published."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fleet.mqtt.client import MqttError
from ota.desired import Desired, verify_desired


class Retained:
    """The broker's store: the newest document per topic, and what was published since it was last asked.

    left: publishes until it goes away with MqttError; None: it stays.
    """

    def __init__(self, trust: Any, installation: bytes) -> None:
        self.store: dict[str, bytes] = {}
        self.fresh: list[tuple[str, Desired, bytes]] = []
        self.left: int | None = None
        self._trust = trust
        self._installation = installation

    def publish_all(self, items: Iterable[tuple[str, bytes]], **_: Any) -> int:
        """As `BackendClient.publish_all`. Raises MqttError once `left` documents came through."""
        count = 0
        for topic, message in items:
            if self.left is not None and count >= self.left:
                raise MqttError("publish_timeout", "the broker went away", acknowledged=count)
            device = topic.split("/")[2]
            document = verify_desired(
                message, device_id=device, installation_id=self._installation, trust=self._trust
            )
            self.store[device] = message
            self.fresh.append((device, document, message))
            count += 1
        return count

    def take(self) -> list[tuple[str, Desired, bytes]]:
        """What was published since the last call."""
        fresh, self.fresh = self.fresh, []
        return fresh
