"""Devices of the rival ways to deliver chunks: plain sockets in one loop, as cheap as a client can be.

They stand where the swarm stands, so that of a rival only broker and backend are compared. They read and
count and write nothing to flash. MQTT 3.1.1 by hand, QoS 0.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from fleet.mqtt import topics
from fleet.stack.ports import LOOPBACK
from ota.chunking import CHUNK_BYTES
from tests.bench.swarm import Person, people

CONNECTS_AT_ONCE = 100
DEADLINE_S = 240.0
WINDOW = topics.SEGMENT_CHUNKS
"""Chunks a device asks for at once: as many as a segment has."""


def packet(kind: int, body: bytes) -> bytes:
    """A control packet with its length."""
    size, head = len(body), bytearray((kind,))
    while True:
        size, low = divmod(size, 128)
        head.append(low | (0x80 if size else 0))
        if not size:
            return bytes(head) + body


def text(value: str) -> bytes:
    """A string as MQTT writes it."""
    return len(value.encode()).to_bytes(2, "big") + value.encode()


def publish(topic: str, payload: bytes) -> bytes:
    """A PUBLISH at QoS 0."""
    return packet(0x30, text(topic) + payload)


@dataclass
class Member:
    """One device: its socket, what came of the packet being read, and what it still asks for."""

    person: Person
    link: socket.socket
    received: int = 0
    asked: int = 0
    rest: bytearray = field(default_factory=bytearray)
    is_ready: bool = False


class Crowd:
    """Connected devices. `with Crowd(people, port, filter_of) as crowd:` all have subscribed."""

    def __init__(self, people: list[Person], port: int, filter_of: Callable[[Person], str]) -> None:
        self._selector = selectors.DefaultSelector()
        self.members: list[Member] = []
        self.messages = 0
        self.bytes = 0
        for start in range(0, len(people), CONNECTS_AT_ONCE):
            new = [
                self._connect(one, port, filter_of(one)) for one in people[start : start + CONNECTS_AT_ONCE]
            ]
            self.members += new
            self.until(lambda new=new: all(one.is_ready for one in new), deadline_s=60)  # type: ignore[misc]

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.link.close()
        self._selector.close()

    def _connect(self, person: Person, port: int, topic_filter: str) -> Member:
        link = socket.create_connection((LOOPBACK, port), timeout=30)
        hello = text("MQTT") + b"\x04\xc2\x02\x58"
        hello += text(person.device_id) + text(person.device_id) + text(person.secret)
        link.sendall(packet(0x10, hello) + packet(0x82, b"\x00\x01" + text(topic_filter) + b"\x00"))
        link.setblocking(False)
        member = Member(person, link)
        self._selector.register(link, selectors.EVENT_READ, member)
        return member

    def until(
        self,
        is_done: Callable[[], bool],
        *,
        deadline_s: float,
        on_chunk: Callable[[Member], None] = lambda _member: None,
    ) -> None:
        """Read until `is_done`. on_chunk: called for each message of a chunk's size. Raises TimeoutError."""
        until_s = time.monotonic() + deadline_s
        while not is_done():
            if time.monotonic() > until_s:
                raise TimeoutError(f"{self.messages:,} messages after {deadline_s:.0f} s")
            for key, _ in self._selector.select(0.2):
                self._read(key.data, on_chunk)

    def _read(self, member: Member, on_chunk: Callable[[Member], None]) -> None:
        data = member.link.recv(1 << 18)
        if not data:
            raise ConnectionError(f"{member.person.device_id} was disconnected")
        rest = member.rest
        rest += data
        at = 0
        while len(rest) - at >= 2:
            size, shift, head = 0, 0, at + 1
            while head < len(rest) and rest[head] & 0x80:
                size |= (rest[head] & 0x7F) << shift
                shift, head = shift + 7, head + 1
            if head >= len(rest):
                break
            size |= rest[head] << shift
            if len(rest) < head + 1 + size:
                break
            kind, at = rest[at] >> 4, head + 1 + size
            if kind == 9:
                member.is_ready = True
            elif kind == 3:
                member.received += 1
                self.messages += 1
                self.bytes += size
                on_chunk(member)
        del rest[:at]


def broadcast(crowd: Crowd, chunks: int, *, deadline_s: float) -> None:
    """Wait until every device has each chunk once."""
    crowd.until(lambda: crowd.messages >= chunks * len(crowd.members), deadline_s=deadline_s)


def ask_for_all(crowd: Crowd, chunks: int, *, deadline_s: float) -> int:
    """Every device asks for each chunk, WINDOW at a time, and waits for the answers; returns the requests."""

    def ask(member: Member) -> None:
        if member.asked < chunks:
            topic = topics.device(member.person.device_id, "event")
            member.link.sendall(publish(topic, member.asked.to_bytes(2, "big")))
            member.asked += 1

    for member in crowd.members:
        for _ in range(WINDOW):
            ask(member)
    broadcast_size = chunks * len(crowd.members)
    crowd.until(lambda: crowd.messages >= broadcast_size, deadline_s=deadline_s, on_chunk=ask)
    if crowd.bytes < broadcast_size * CHUNK_BYTES:
        raise RuntimeError(f"{crowd.bytes:,} bytes came, less than the chunks have")
    return sum(member.asked for member in crowd.members)


def child(pipe: Connection, mode: str, count: int, seed: int, port: int, mid: str, chunks: int) -> None:
    """A crowd in a process of its own, so that its CPU time is nobody else's.

    mode: "broadcast" or "ask". Says "ready" once all have subscribed, then
    (messages, requests) when all have everything.
    """

    def filter_of(person: Person) -> str:
        return topics.model_filter(mid) if mode == "broadcast" else topics.cmd(person.device_id)

    with Crowd(people(count, seed), port, filter_of) as crowd:
        pipe.send("ready")
        requests = 0
        if mode == "broadcast":
            broadcast(crowd, chunks, deadline_s=DEADLINE_S)
        else:
            requests = ask_for_all(crowd, chunks, deadline_s=DEADLINE_S)
        pipe.send((crowd.messages, requests))
