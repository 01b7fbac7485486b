"""The supervisor of virtual devices: its control socket, how devices end and start again, what is left over.

No broker runs here: the devices look for one in vain, which is all the same to their supervisor.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_firmware.host.child import reset_reason
from device_firmware.host.core import Reset, exit_cut
from device_firmware.host.device import EXIT_REBOOT
from device_firmware.host.devicelog import LogEvent, describe
from device_firmware.host.home import Home
from device_firmware.host.identity import Identity
from fleet.stack.ports import LOOPBACK, free_port
from tests.firmware import artifacts
from tests.firmware.virtual import Devices, mac_key, running, until
from tests.models.watch import ROOT, watch_dir

CODES_H = ROOT / "device_firmware" / "components" / "fleet_core" / "include" / "fleet_core" / "codes.h"


def identity(device_id: str) -> Identity:
    """A device whose broker is not there."""
    return Identity(
        device_id=device_id,
        installation_id=artifacts.INSTALLATION,
        class_id=artifacts.CLASS_ID,
        device_class="test",
        chip="host",
        firmware="1.0.0",
        esp_nn="",
        arena_bytes=100_000,
        slot_bytes=(65_536,),
        operators=(3, 9),
        broker_host=LOOPBACK,
        broker_port=free_port(),
        broker_ca=CA,
        broker_user=device_id,
        broker_secret="none",
        mac_key=mac_key(device_id),
        roots=tuple(key.public_key for key in artifacts.ROOTS),
        root_threshold=2,
        least_trust_version=1,
    )


@pytest.fixture(scope="module", autouse=True)
def _authority(tmp_path_factory: pytest.TempPathFactory) -> None:
    from fleet.stack.paths import RunDir
    from fleet.stack.tls import ensure_tls

    global CA
    CA = ensure_tls(RunDir(tmp_path_factory.mktemp("tls")).ensure()).ca.read_text()


CA = ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose socket's path alone would be too long for `sun_path`."""
    return tmp_path / ("deep" * 20) / "devices"


@pytest.fixture
def devices(folder: Path) -> Iterator[Devices]:
    """A supervisor with two devices that are up."""
    with running(folder) as devices:
        devices.add(identity("dev-a"), identity("dev-b"))
        for name in ("dev-a", "dev-b"):
            until_up(devices, name)
        yield devices


def until_up(devices: Devices, device_id: str) -> dict[str, Any]:
    """The device's status once it has sent a heartbeat."""

    def look() -> dict[str, Any] | None:
        status = devices.status(device_id)
        return status if status["pid"] and "state" in status else None

    found = until(look, what=f"{device_id} up")
    assert found is not None
    return found


def lives(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def raw(devices: Devices, data: bytes) -> bytes:
    """What the control socket answers to bytes that `ask` would never send."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        fd = os.open(devices.folder, os.O_RDONLY)
        client.connect(f"/proc/self/fd/{fd}/control.sock")
        os.close(fd)
        client.sendall(data)
        return client.makefile("rb").readline()


def test_the_control_socket_survives_what_it_cannot_use(devices: Devices, tmp_path: Path) -> None:
    bad_tickets = tmp_path / "bad.jsonl"
    bad_tickets.write_text('{"device_id": "../../etc", "token": "t", "class": "c", "url": "https://x"}\n')
    for request, words in (
        ([1, 2], "one JSON object"),
        ({}, "do must be"),
        ({"do": "dance"}, "do must be"),
        ({"do": "fault"}, "device is missing"),
        ({"do": "fault", "device": "dev-z", "kind": "cut"}, "dev-z is missing or unknown"),
        ({"do": "fault", "device": ["dev-a"], "kind": "cut"}, "unknown"),
        ({"do": "fault", "device": "dev-a", "kind": "flood"}, "kind must be"),
        ({"do": "fault", "device": "dev-a", "kind": "cut", "ops": None}, "ops: a whole number is needed"),
        ({"do": "fault", "device": "dev-a", "kind": "cut", "ops": 0}, "ops: 1 to"),
        ({"do": "fault", "device": "dev-a", "kind": "hang", "ops": 1}, "hang does not take ops"),
        ({"do": "fault", "device": "dev-a", "kind": "hang", "seconds": 1}, "does not take seconds"),
        ({"do": "fault", "device": "dev-a", "kind": "lose", "ratio": 2}, "ratio: 0 to 1, not 2"),
        ({"do": "fault", "device": "dev-a", "kind": "lose", "ratio": float("nan")}, "ratio: 0 to 1"),
        ({"do": "add"}, "tickets is missing"),
        ({"do": "add", "tickets": str(tmp_path / "none")}, "No such file"),
        ({"do": "add", "tickets": str(bad_tickets)}, "bad.jsonl:1"),
    ):
        with pytest.raises(RuntimeError, match=re.escape(words)):
            devices.ask(request)  # type: ignore[arg-type]
    for data in (b"\xff\xfe\n", b"{\n", b"[" * 50_000 + b"\n", b"x" * 70_000):
        assert b"error" in raw(devices, data)
    with socket.socket(socket.AF_UNIX) as silent:  # says nothing and holds nobody up
        fd = os.open(devices.folder, os.O_RDONLY)
        silent.connect(f"/proc/self/fd/{fd}/control.sock")
        os.close(fd)
        assert set(devices.ask({"do": "status"})["devices"]) == {"dev-a", "dev-b"}
        silent.settimeout(20)
        assert silent.recv(1) == b"", "let go of after five seconds"
    assert devices.process.poll() is None


def test_a_device_comes_back_with_its_reset_reason_and_nothing_leaks(devices: Devices) -> None:
    supervisor = devices.process.pid
    before = descriptors(supervisor)
    for number, reason in ((signal.SIGSEGV, "panic"), (signal.SIGKILL, "power")):
        pid = until_up(devices, "dev-a")["pid"]
        os.kill(pid, number)
        until(lambda reason=reason: devices.status("dev-a")["restarts"].get(reason), what=reason)  # type: ignore[misc]
        until(lambda pid=pid: devices.status("dev-a")["pid"] not in (0, pid), what="its restart")  # type: ignore[misc]
    pid = until_up(devices, "dev-a")["pid"]
    devices.fault("dev-a", "crash")
    until(lambda: devices.status("dev-a")["restarts"] == {"panic": 2, "power": 1}, what="the crash")
    pid = until(lambda: devices.status("dev-a")["pid"], what="its restart")
    untouched = until_up(devices, "dev-b")
    assert untouched["restarts"] == {}
    until(lambda: descriptors(supervisor) <= before, what="closed descriptors")
    until_up(devices, "dev-a")
    assert descriptors(pid) <= descriptors(untouched["pid"]), "a later child inherits no more than an earlier"
    assert (devices.folder / "dev-a" / "boot").read_text() == "4"
    booted = [line["reason"] for line in devices.log("dev-a") if line["event"] == "boot"]
    assert booted == ["power", "panic", "power", "panic"]


def test_a_device_that_dies_at_its_start_is_not_tried_in_a_spin(devices: Devices) -> None:
    broken = identity("dev-broken")
    Home(devices.folder / "dev-broken").make()
    (devices.folder / "dev-broken" / "flash.bin").mkdir()
    devices.add(broken)
    pauses = until(
        lambda: (
            found
            if len(found := [x["pause_s"] for x in devices.log("dev-broken") if x["event"] == "restart"]) > 2
            else None
        ),
        what="three deaths",
    )
    assert pauses is not None
    assert pauses[:3] == [0.5, 1.0, 2.0]
    died = [line for line in devices.log("dev-broken") if line["event"] == "died"]
    assert "cannot open flash.bin" in died[0]["text"]
    assert until_up(devices, "dev-a")["restarts"] == {}


def test_sigterm_ends_every_device_and_a_new_start_knows_them(folder: Path) -> None:
    with running(folder) as devices:
        devices.add(identity("dev-b"), identity("dev-a"))
        pids = [until_up(devices, name)["pid"] for name in ("dev-a", "dev-b")]
        seats = {name: (folder / name / "seat").read_text() for name in ("dev-a", "dev-b")}
        devices.process.send_signal(signal.SIGTERM)
        assert devices.process.wait(10) == 0
        assert not [pid for pid in pids if lives(pid)]
        assert not (folder / "control.sock").exists()
        assert devices.log()[-1] == {"event": "stopped", "devices": 2, "killed": 0}
    with running(folder) as devices:
        for name in ("dev-a", "dev-b"):
            until_up(devices, name)
        assert {name: (folder / name / "seat").read_text() for name in seats} == seats
        command = [sys.executable, "-m", "device_firmware.host.supervisor"]
        command += ["--dir", str(folder), "--data", str(watch_dir())]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
        assert second.returncode == 2
        assert "dir_in_use" in second.stderr
        assert devices.ask({"do": "stop"}) == {"ok": True}
        assert devices.process.wait(10) == 0


def test_a_killed_supervisor_takes_its_devices_with_it(devices: Devices) -> None:
    pids = [until_up(devices, name)["pid"] for name in ("dev-a", "dev-b")]
    devices.fault("dev-b", "hang")
    until(lambda: "fault" in [x["event"] for x in devices.log("dev-b")], what="the hang")
    devices.process.kill()
    devices.process.wait()
    until(lambda: not [pid for pid in pids if lives(pid)], what="the devices to end")


def test_a_slow_backend_does_not_make_running_devices_look_hung(devices: Devices, tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as deaf:  # takes connections, answers nothing
        ticket = {"device_id": "dev-c", "token": "t", "class": "test"}
        ticket["url"] = f"https://{LOOPBACK}:{deaf.getsockname()[1]}"
        (tmp_path / "t.jsonl").write_text(json.dumps(ticket))
        answers: list[Any] = []

        def add() -> None:
            try:
                answers.append(devices.ask({"do": "add", "tickets": str(tmp_path / "t.jsonl")}))
            except (OSError, RuntimeError) as error:
                answers.append(error)

        asking = threading.Thread(target=add)
        asking.start()
        connection, _ = deaf.accept()
        for _ in range(3):
            assert set(devices.ask({"do": "status"})["devices"]) == {"dev-a", "dev-b"}
        devices.process.terminate()
        assert devices.process.wait(15) == 0, "an enrolment under way does not hold up the end"
        connection.close()
        asking.join(20)
        assert not asking.is_alive()
        assert len(answers) == 1


def test_wait_statuses_become_reset_reasons() -> None:
    assert reset_reason(signal.SIGSEGV) == reset_reason(signal.SIGABRT) == Reset.PANIC
    assert reset_reason(signal.SIGKILL) == reset_reason(signal.SIGTERM) == Reset.POWER
    assert reset_reason(exit_cut() << 8) == reset_reason(0) == Reset.POWER
    assert reset_reason(EXIT_REBOOT << 8) == Reset.EXPECTED
    assert reset_reason(1 << 8) == Reset.PANIC


def test_log_numbers_are_the_ones_of_the_core() -> None:
    block = re.search(r"enum fc_log \{(.*?)\};", CODES_H.read_text(), re.S)
    assert block is not None
    names = re.findall(r"^\s*FC_LOG_(\w+)", block[1], re.M)
    assert {name: number for number, name in enumerate(names, 1)} == {e.name: e.value for e in LogEvent}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ((1, 2, 6, 0), ("state", {"slot": 0, "state": "trial", "code": "none"})),
        ((1, 2, 1 << 8 | 8, 17), ("state", {"slot": 1, "state": "reverted", "code": "selftest_mismatch"})),
        ((1, 1, 2, 9), ("boot", {"reason": "panic", "record": 9})),
        ((1, 3, 4, 7), ("refusal", {"code": "sequence", "detail": 7})),
        ((2, 6, 4, 3), ("flash", {"area": "bank 1", "sector": 3})),
        ((1, 10, 3 << 16 | 4, 12), ("selftest", {"passed": 3, "vectors": 4, "max_diff": 12})),
        ((1, 11, 2, 3), ("segment", {"segment": 2, "misses": 3})),
        ((2, 12, 3, 0), ("safe_mode", {"panics": 3})),
        ((0, 4, 0, 100), None),
        ((0, 5, 12, 0), None),
        ((1, 8, 5, 0), None),
        ((2, 99, 5, 6), ("core_99", {"level": 2, "a": 5, "b": 6})),
        ((1, 1, 77, 0), ("boot", {"reason": "77", "record": 0})),
    ],
)
def test_log_lines_are_readable_and_few(line: tuple[int, int, int, int], said: Any) -> None:
    assert describe(*line) == said
