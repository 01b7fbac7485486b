"""Locks of the session: one holder at a time, and none left when its process is gone."""

import os
import signal
import subprocess
import sys

import pytest
from django.db import connection

from ota.locks import try_lock
from tests.stack.services import wait_until

HOLDER = """
import os, sys, time, psycopg, hashlib
key = int.from_bytes(hashlib.sha256(b"the lock of this test").digest()[:8], "big", signed=True)
with psycopg.connect(os.environ["DSN"]) as database:
    database.execute("SELECT pg_advisory_lock(%s)", [key])
    print("held", flush=True)
    time.sleep(120)
"""


def is_free() -> bool:
    with try_lock("the lock of this test") as is_held:
        return is_held


@pytest.mark.django_db
def test_a_lock_is_held_once_and_ends_with_a_killed_holder() -> None:
    assert is_free()
    assert is_free(), "it is given back at the end of the block"
    settings = connection.settings_dict
    dsn = (
        f"host={settings['HOST']} port={settings['PORT']} user={settings['USER']} "
        f"password={settings['PASSWORD']} dbname={settings['NAME']}"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], env={**os.environ, "DSN": dsn}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not is_free()
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        wait_until(is_free, what="the lock of a killed process")
    finally:
        holder.kill()
        holder.wait(10)
