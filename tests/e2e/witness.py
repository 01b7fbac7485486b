"""A subscriber beside the gateway: what devices published, known from no table of ours."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict

from fleet.devices.keys import Keyring
from fleet.mqtt.client import Arrived, BackendClient
from fleet.telemetry.gap_evidence import read_head


class Witness:
    """Reads beside the gateway what devices publish, and stores nothing."""

    def __init__(self) -> None:
        self._messages: list[tuple[str, bytes]] = []
        self._lock = threading.Lock()

    def take(self, message: Arrived) -> None:
        """One message of a device."""
        with self._lock:
            self._messages.append((message.topic, message.payload))

    def reading(self) -> BackendClient:
        """A connection that reads for this witness until it is closed. Raises MqttError."""
        client = BackendClient("test", on_message=self.take)
        client.connect(timeout_s=30)
        client.subscribe("f1/dev/+/telemetry")
        return client

    def mark(self) -> int:
        """How many messages came so far."""
        with self._lock:
            return len(self._messages)

    def since(self, mark: int) -> Counter[str]:
        """Messages of each device behind a mark."""
        with self._lock:
            return Counter(topic.split("/")[2] for topic, _ in self._messages[mark:])

    def counters(self, installation: bytes) -> dict[tuple[str, int], set[int]]:
        """(device, boot) -> counters of its authentic batches."""
        with self._lock:
            messages = list(self._messages)
        keyring = Keyring()
        seen: dict[tuple[str, int], set[int]] = defaultdict(set)
        keyring.load({topic.split("/")[2] for topic, _ in messages})
        for topic, payload in messages:
            name = topic.split("/")[2]
            head = read_head(name, topic, payload, installation_id=installation, keyring=keyring)
            if head is not None:
                seen[name, head[0]].update(range(head[1][0], head[1][1] + 1))
        return seen
