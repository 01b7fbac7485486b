"""Shared TFLM workers: the same answers as in a device's own process; a crash hits one device alone."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator

import pytest

from device_firmware.host.engine_pool import FrameError, receive_frame, send_frame
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from tests.firmware.virtual import Backend, Devices, artifact, backend_of, golden, model_bytes, running, until
from tests.models.make_models import MODELS
from tests.stack.services import private_mosquitto

pytestmark = pytest.mark.xdist_group("engine pool")
CONFIRMED, REVERTED = UpdateState.CONFIRMED, UpdateState.REVERTED
V1 = model_bytes("activity-v1")
WAIT_S = 90.0


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Backend, Devices]]:
    """Four devices on activity 1.0.1, whose TFLM is in one shared worker."""
    with (
        private_mosquitto(tmp_path_factory.mktemp("broker")) as broker,
        running(tmp_path_factory.mktemp("devices"), "--engines", "1") as devices,
        backend_of(broker) as backend,
    ):
        good = artifact(V1, 1)
        names = ("crashing", "hanging", "steady", "other")
        for name in names:
            backend.want(name, good)
        devices.add(*(backend.identity(name) for name in names))
        for name in names:
            slot = backend.until_state(name, CONFIRMED, good, deadline_s=WAIT_S)
            assert slot.self_test.n == slot.self_test.ok == 4
            assert slot.self_test.max_diff == 0, "the worker answers what the wheel answered here"
        yield backend, devices


def test_a_model_that_crashes_the_worker_is_a_panic_of_its_device_alone(
    both: tuple[Backend, Devices],
) -> None:
    backend, devices = both
    crash = artifact(MODELS["crash-slice"].make(), 2, vectors=golden(V1), operators=(65,))
    backend.want("crashing", crash, attempt=2)
    slot = backend.until_state("crashing", REVERTED, crash, deadline_s=WAIT_S)
    assert slot.code == RefusalCode.CRASH_LOOP
    assert devices.status("crashing")["restarts"] == {"panic": 2}
    assert devices.ask({"do": "status"})["engine_restarts"] >= 2
    before = len(backend.batches("steady"))
    until(lambda: len(backend.batches("steady")) > before + 1, what="steady to go on inferring")
    for name in ("steady", "other"):
        assert devices.status(name)["restarts"] == {}
        assert devices.status(name)["model"] == "activity 1.0.1"
    moved = {line["device"] for line in devices.log() if line["event"] == "engine_moved"}
    assert moved, "devices that shared the worker loaded their models again"


def test_a_model_that_hangs_the_worker_is_a_hang_of_its_device_alone(both: tuple[Backend, Devices]) -> None:
    backend, devices = both
    hang = artifact(MODELS["hang"].make(), 2, vectors=golden(V1))
    backend.want("hanging", hang, attempt=2)
    slot = backend.until_state("hanging", REVERTED, hang, deadline_s=WAIT_S)
    assert slot.code == RefusalCode.WATCHDOG
    assert devices.status("hanging")["restarts"] == {"watchdog": 2}
    for name in ("steady", "other"):
        assert devices.status(name)["restarts"] == {}
    until(lambda: devices.status("hanging")["model"] == "activity 1.0.1", what="the kept model to run")


def test_frames_that_are_none_end_a_connection_and_nothing_else() -> None:
    for data in (
        struct.pack("<I", 70_000),
        struct.pack("<I", 4) + b"nope",
        struct.pack("<I", 2) + b"{}",
        struct.pack("<I", 2) + b"[]",
        struct.pack("<I", 13) + b'{"blobs":[1]}',  # and then the end
        *(
            struct.pack("<I", len(raw)) + raw
            for raw in (
                json.dumps({"blobs": value}).encode() for value in (3, [-1], [True], [2**30], [0] * 17)
            )
        ),
    ):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)
            with pytest.raises(FrameError):
                receive_frame(ours)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(theirs, {"do": "invoke"}, [b"one", b""])
        assert receive_frame(ours) == ({"do": "invoke"}, [b"one", b""])
