"""What a gateway needs before it can work: a database that is set up, broker users, its slot."""

import hashlib
import hmac
import logging
import threading
import time
from typing import Final

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone

from fleet.devices import broker
from fleet.devices.errors import DeviceError
from fleet.devices.installation import installation_id
from fleet.gateway.errors import GatewayError
from fleet.gateway.slot_lease import SlotLease
from fleet.mqtt.broker_files import BackendUser, BrokerFilesError
from fleet.mqtt.client import MqttError, take_named
from fleet.telemetry import partitions

logger = logging.getLogger(__name__)

LEASE_WAIT_S: Final = 15.0
RETRY_MAX_S: Final = 5.0
CHECK_S: Final = 0.2


def telemetry_user(slot: int) -> int:
    """Number of the broker user that has a slot's telemetry session."""
    return 2 * slot + 1


def share_group(identity: bytes) -> str:
    """Name of the shared subscription: 128 bits that a device cannot guess.

    The broker's rules do not stop a SUBSCRIBE, so a device that knew the name could swallow the fleet's
    telemetry. Derived from the passphrase, so every gateway of an installation finds the same one without
    storing it.
    """
    text = b"telemetry share group" + identity
    return hmac.digest(settings.KEY_PASSPHRASE.encode(), text, hashlib.sha256)[:16].hex()


def prepare() -> bytes:
    """Installation id; makes partitions and heals the broker's password file on the way."""
    identity = installation_id()
    partitions.make_ahead(timezone.now())
    try:
        broker.sync()
    except (BrokerFilesError, OSError) as error:
        logger.warning("the broker's password file cannot be written from here: %s", error)
    return identity


def wait_for_database(stop: threading.Event) -> bytes | None:
    """The installation's id once the database answers and is set up; None when stopped before."""
    pause_s, told = 0.2, ""
    while not stop.is_set():
        try:
            return prepare()
        except DatabaseError as error:
            code, text = "database_unavailable", str(error).strip().partition("\n")[0]
        except DeviceError as error:
            code, text = error.code, error.text
        finally:
            connection.close()
        if told != code:
            logger.warning("gateway: %s (%s); trying again every few seconds", code, text)
            told = code
        stop.wait(pause_s)
        pause_s = min(RETRY_MAX_S, pause_s * 2)
    return None


def lease_user(name: str, stop: threading.Event) -> BackendUser:
    """The broker user of this slot; waits a little for a predecessor that is still ending."""
    until_s = time.monotonic() + LEASE_WAIT_S
    while True:
        try:
            return take_named(name)
        except MqttError as error:
            if error.code != "no_free_user" or time.monotonic() > until_s or stop.wait(CHECK_S):
                raise


def hold_slot(lease: SlotLease, stop: threading.Event) -> None:
    """Take the slot; a predecessor that is still ending is waited for. Raises GatewayError `slot_taken`."""
    until_s = time.monotonic() + LEASE_WAIT_S
    while True:
        try:
            return lease.take()
        except GatewayError:
            if time.monotonic() > until_s or stop.wait(CHECK_S):
                raise
