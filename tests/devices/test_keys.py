"""MAC keys:

the kid picks the key, a new one works at once, a revoked one is believed no longer than the cache lives.
"""

from datetime import datetime
from typing import Any

import pytest

from fleet.devices.keys import Keyring
from fleet.devices.models import Device, DeviceCredential
from fleet.mqtt.codec.cose import mac_kid
from fleet.sealing import SealError, seal
from tests.devices.makers import make_board

pytestmark = pytest.mark.django_db


def add_key(device_id: str, key: bytes, now: datetime) -> None:
    sealed = seal(key, purpose=f"mac_key:{device_id}", passphrase="a passphrase of the tests")
    DeviceCredential.objects.create(
        device_id=device_id,
        mac_kid=mac_kid(key).hex(),
        sealed_mac_key=sealed,
        sealed_broker_secret=b"",
        broker_secret_hash="",
        created_at=now,
    )


def test_a_new_key_works_at_once_beside_the_old_one(now: datetime) -> None:
    board = make_board("dev-1", now)
    ring = Keyring(keep_s=1000)
    assert ring.mac_key("dev-1", mac_kid(board.mac_key)) == board.mac_key
    add_key("dev-1", b"k" * 32, now)
    assert ring.mac_key("dev-1", mac_kid(b"k" * 32)) == b"k" * 32
    assert ring.mac_key("dev-1", mac_kid(board.mac_key)) == board.mac_key


def test_a_known_key_costs_no_query_until_it_is_too_old(
    now: datetime, django_assert_num_queries: object
) -> None:
    board = make_board("dev-1", now)
    ring = Keyring(keep_s=1000)
    ring.device("dev-1")
    with django_assert_num_queries(0):  # type: ignore[operator]
        assert ring.mac_key("dev-1", mac_kid(board.mac_key)) == board.mac_key
    DeviceCredential.objects.update(revoked_at=now)
    assert ring.mac_key("dev-1", mac_kid(board.mac_key)) == board.mac_key
    ring.clear()
    assert ring.mac_key("dev-1", mac_kid(board.mac_key)) is None
    assert Keyring(keep_s=0).mac_key("dev-1", mac_kid(board.mac_key)) is None


def test_retired_and_unknown_devices_are_told_apart(now: datetime) -> None:
    make_board("dev-1", now)
    Device.objects.update(retired_at=now)
    known = Keyring().device("dev-1")
    assert known is not None
    assert known.is_retired
    assert Keyring().device("nobody") is None


def test_a_key_of_another_device_cannot_be_moved_over(now: datetime) -> None:
    make_board("dev-1", now)
    make_board("dev-2", now)
    stolen = DeviceCredential.objects.get(device_id="dev-1").sealed_mac_key
    DeviceCredential.objects.filter(device_id="dev-2").update(sealed_mac_key=stolen)
    with pytest.raises(SealError):
        Keyring().device("dev-2")


def test_many_devices_are_read_together_and_known_ones_not_again(
    now: datetime, django_assert_num_queries: Any
) -> None:
    boards = [make_board(f"dev-{n}", now) for n in range(5)]
    keyring = Keyring()
    with django_assert_num_queries(2):
        assert keyring.load([*(board.id for board in boards), "dev-unknown"]) == 6
    with django_assert_num_queries(0):
        assert [keyring.mac_key(one.id, mac_kid(one.mac_key)) for one in boards] == [
            one.mac_key for one in boards
        ]
        assert keyring.load(board.id for board in boards) == 0
    assert keyring.device("dev-unknown") is None
