"""Empty a slot whose gateway will not come back.

What the broker has queued for a slot waits in that slot's session, where no other gateway sees it. Draining
connects as the slot, takes no new messages, stores what is queued and ends the session.
"""

import logging
import threading
from typing import Final

from django.conf import settings
from django.db import connection

from fleet.gateway import heartbeat
from fleet.gateway.handlers import Measurements
from fleet.gateway.lean_source import LeanSource
from fleet.gateway.pump import Pump
from fleet.gateway.readiness import hold_slot, lease_user, share_group, telemetry_user, wait_for_database
from fleet.gateway.slot_lease import SlotLease
from fleet.gateway.uplink import Reader
from fleet.mqtt import topics
from fleet.mqtt.client import BackendClient

logger = logging.getLogger(__name__)

_ANSWER_S: Final = 10.0


def run(*, slot: int, stop: threading.Event) -> bool:
    """Store what the broker holds for this slot's telemetry and end its session; False when stopped before.

    Safe to repeat: a slot without a session is empty. stop: is set at the end as well. No device's pace is
    judged: what waits came over hours. A broker or a database that is away is waited for.

    Raises MqttError `users_missing`, `no_free_user`, GatewayError `slot_taken`: the slot's gateway runs.
    """
    identity = wait_for_database(stop)
    if identity is None:
        return False
    judge = Reader(identity, takes_json=settings.DEBUG_JSON)
    number, handler = telemetry_user(slot), Measurements(judge, slot=slot)
    group = share_group(identity)
    leave = [topics.uplink_filter(kind, share=share) for kind in handler.kinds for share in ("", group)]
    user = lease_user(f"svc.gateway-{number}", stop)
    lease, is_done = SlotLease([number]), False
    try:
        hold_slot(lease, stop)
        source = LeanSource("drain", user, [], leave=leave)

        def look() -> None:
            nonlocal is_done
            if source.is_empty(_ANSWER_S):
                is_done = True
                stop.set()

        pump = Pump(source, handler, stop, on_idle=look)
        pump.run()
        source.close()
        if is_done:
            heartbeat.leave([(f"telemetry-{slot}", pump)])  # whoever had this slot is waited for no longer
            with BackendClient(user, "drain", clean=True) as client:  # a clean start ends the kept session
                client.connect()
            logger.info("slot %d is empty and its session ended", slot)
        return is_done
    finally:
        lease.release()
        user.release()
        connection.close()
