"""The gateway process: two broker sessions, two pumps, one orderly end."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from django.conf import settings
from django.db import connection
from django.utils import timezone

from fleet.gateway import heartbeat, pace
from fleet.gateway.errors import GatewayError
from fleet.gateway.handlers import Control, Handler, Measurements
from fleet.gateway.lean_source import LeanSource
from fleet.gateway.listening import Listener
from fleet.gateway.pace import Pace
from fleet.gateway.paho_source import PahoSource
from fleet.gateway.pump import Pump
from fleet.gateway.readiness import (
    CHECK_S,
    hold_slot,
    lease_user,
    share_group,
    telemetry_user,
    wait_for_database,
)
from fleet.gateway.slot_lease import SlotLease
from fleet.gateway.source import READERS, Source
from fleet.gateway.uplink import Reader
from fleet.mqtt import topics
from fleet.mqtt.broker_files import BackendUser

logger = logging.getLogger(__name__)

SLOTS: Final = 4
LEASE_CHECK_S: Final = 2.0
COLLECT_EVERY: Final = 100_000
"""Objects made between two searches for unreachable ones. A batch is tens of thousands of tuples that die
with it; looking through them every 700, as Python does, took a fifth of a gateway's time."""


class Role(StrEnum):
    """Which uplinks a gateway takes."""

    ALL = "all"
    CONTROL = "control"
    TELEMETRY = "telemetry"


def run(
    *,
    slot: int,
    stop: threading.Event,
    role: Role = Role.ALL,
    shared: bool = False,
    per_s: float = pace.PER_S,
    burst: int = pace.BURST,
    reader: str = READERS[0],
    on_ready: Callable[[], None] = lambda: None,
) -> bool:
    """Take uplinks until `stop` is set; True when it ended as asked, False when a pump failed.

    slot: 0 to 3, each with broker users of its own. role: ALL is control and telemetry in one process, as one
    machine has it; apart, a flood of telemetry takes no processor time from reports. Slot 0 alone takes
    reports and presence, which cannot be shared between gateways because retained messages are not; for any
    other slot ALL means TELEMETRY. shared: this gateway is one of several that share telemetry and events;
    True for every slot above 0. Alone is safer: Mosquitto 2.0 forgets shared subscriptions when it restarts,
    and loses what devices send until the gateway is back. A broker or a database that is away is waited for.
    per_s, burst: telemetry and events that one device may send; what is beyond is refused as `rate_limited`.
    reader: of telemetry, one of READERS; `lean` is our own over MQTT 5, `paho` for a broker that has 3.1.1
    alone.

    Raises MqttError `users_missing`, or `no_free_user` when another gateway of this machine has the slot, and
    GatewayError `slot_taken` when one of another machine has it.
    """
    identity = wait_for_database(stop)
    if identity is None:
        return True
    if settings.DEBUG_JSON:
        logger.warning("FLEET_DEBUG_JSON is set: telemetry without a MAC is taken and kept apart")
    judge = Reader(identity, takes_json=settings.DEBUG_JSON)
    group = share_group(identity) if shared or slot else ""
    stations = []
    if role is not Role.TELEMETRY and slot == 0:
        stations.append(_Station("control", Control(judge, slot=slot), 0, True))
    if role is not Role.CONTROL:
        handler = Measurements(judge, slot=slot)
        stations.append(_Station("telemetry", handler, telemetry_user(slot), False, group))
    users: list[BackendUser] = []
    lease = SlotLease([station.user for station in stations])
    listener = Listener(stop)
    try:
        for station in stations:
            users.append(lease_user(f"svc.gateway-{station.user}", stop))
        hold_slot(lease, stop)
        sources = [
            _source(
                station, user, identity, None if station.clean else Pace(per_s=per_s, burst=burst), reader
            )
            for station, user in zip(stations, users, strict=True)
        ]
        listener.start()
        pumps = [Pump(source, one.handler, stop) for source, one in zip(sources, stations, strict=True)]
        named = [(f"{station.name}-{slot}", pump) for station, pump in zip(stations, pumps, strict=True)]
        return _run_pumps(sources, named, stop, on_ready, lease)
    finally:
        lease.release()
        for user in users:
            user.release()
        if stop.is_set():
            listener.join()


@dataclass(frozen=True)
class _Station:
    """A session and what handles it.

    user: number of its broker user. clean: False keeps session and queue at the broker; retained reports and
    presence come anew on every connect. group: of a shared subscription, "" for an own one.
    """

    name: str
    handler: Handler
    user: int
    clean: bool
    group: str = ""


def _source(station: _Station, user: BackendUser, identity: bytes, limit: Pace | None, reader: str) -> Source:
    other = "" if station.group else share_group(identity)
    kinds = station.handler.kinds
    filters = [topics.uplink_filter(kind, share=station.group) for kind in kinds]
    leave = [] if station.clean else [topics.uplink_filter(kind, share=other) for kind in kinds]
    if reader == "lean" and not station.clean:
        return LeanSource(station.name, user, filters, leave=leave, pace=limit)
    return PahoSource(station.name, user, filters, clean=station.clean, leave=leave, pace=limit)


def _run_pumps(
    sources: Sequence[Source],
    pumps: Sequence[tuple[str, Pump]],
    stop: threading.Event,
    on_ready: Callable[[], None],
    lease: SlotLease,
) -> bool:
    failed = threading.Event()

    def work(pump: Pump) -> None:
        try:
            pump.run()
        except Exception:
            logger.exception("a pump of the gateway failed")
            failed.set()
            stop.set()
        finally:
            connection.close()

    threads = [
        threading.Thread(target=work, args=(pump,), name=source.name)
        for source, (_, pump) in zip(sources, pumps, strict=True)
    ]
    for source in sources:
        source.start()
    for thread in threads:
        thread.start()
    is_told = False
    held_s = time.monotonic()
    told_s = -heartbeat.BEAT_S
    while not stop.wait(CHECK_S):
        if time.monotonic() > told_s + heartbeat.BEAT_S:
            told_s = time.monotonic()
            heartbeat.tell(pumps, now=timezone.now())
        if time.monotonic() > held_s + LEASE_CHECK_S:
            held_s = time.monotonic()
            try:
                lease.take()
            except GatewayError as error:
                logger.error("gateway: %s", error)
                failed.set()
                stop.set()
        if not is_told and all(source.is_ready for source in sources):
            logger.info("gateway is ready: %s", ", ".join(source.name for source in sources))
            is_told = True
            on_ready()
    for thread in threads:
        thread.join()
    for source in sources:
        source.close()
    if not failed.is_set():
        heartbeat.leave(pumps)
    connection.close()
    logger.info("gateway has stopped: what it took is committed and acknowledged")
    return not failed.is_set()
