"""Virtual devices by the dozen: enrols them, forks each from one warm process, restarts it with its reset
reason.

`python -m device_firmware.host.supervisor --dir DIR --data DIR --tickets FILE` runs until it is told to
stop. A
Unix socket `DIR/control.sock` takes one JSON object a line and answers with one: `{"do": "status"}`, `{"do":
"fault", "device": ID, "kind": "cut", "ops": 40, "mode": 1, "after_restart": false}`, `{"do": "add",
"tickets":
FILE}`, `{"do": "stop"}`.
"""

import argparse
import contextlib
import fcntl
import gc
import os
import selectors
import signal
import ssl
import sys
import time
from pathlib import Path
from typing import Any

from device_firmware.host import build
from device_firmware.host.child import Child
from device_firmware.host.control import ControlServer, Reply, ask
from device_firmware.host.devicelog import say
from device_firmware.host.engine_pool import EnginePool
from device_firmware.host.enrolment import Enrolment
from device_firmware.host.faults import Fault
from device_firmware.host.home import Home
from device_firmware.host.identity import Ticket, read_tickets
from device_firmware.host.recordings import (
    FIELD_SUBJECTS,
    Recording,
    RecordingsError,
    field_subject,
    load_subject,
    prepare,
    stream,
)

__all__ = ["Supervisor", "SupervisorError", "ask", "main"]

LOOK_S = 0.2
STOP_S = 5.0
LOCK_S = 5.0


class SupervisorError(Exception):
    """`code` is `dir_in_use` (another supervisor, or devices that outlived one, hold the folder)."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Supervisor:
    """Owns the processes. One thread, because it forks; every wait has a bound."""

    def __init__(self, folder: Path, data: Path, *, ca_file: str | None, engines: int = 0) -> None:
        """Take the folder. engines: workers that share TFLM; 0: TFLM in each device's process.

        Raises SupervisorError `dir_in_use` after 5 s of waiting for it.
        """
        self.folder = folder
        self.ca_file = ca_file
        self.children: dict[str, Child] = {}
        self._by_pid: dict[int, Child] = {}
        self._enrolments: list[Enrolment] = []
        self._is_stopping = False
        self._recordings = _warm(data)
        folder.mkdir(parents=True, exist_ok=True)
        # Children inherit the lock: two processes must never write one flash file.
        self._lock = _locked(folder / "lock")
        self._selector = selectors.DefaultSelector()
        self._server = ControlServer(folder, self._selector, self._handle)
        self._engines = engines
        self._pool = EnginePool(folder, engines, in_child=self._become_child) if engines else None

    def start_known(self) -> int:
        """Start the devices that a former run enrolled; they need no ticket. Returns how many there are."""
        for file in sorted(self.folder.glob("*/identity.json")):
            self._take(file.parent.name)
        return len(self.children)

    def add(self, tickets: list[Ticket], reply: Reply) -> None:
        """Enrol the devices of `tickets` and start each as soon as it has an identity; those enrolled earlier
        are only started. At the end `reply` gets the code of each refused device.
        """
        fresh = {t.device_id: t for t in tickets if t.device_id not in self.children}
        if not fresh:
            reply({"refused": {}})
            return
        enrolment = Enrolment(
            self.folder, list(fresh.values()), ca_file=self.ca_file, in_child=self._become_child
        )
        self._enrolments.append(enrolment)

        def result(_events: int) -> None:
            try:
                device_id = enrolment.read()
            except BlockingIOError:
                return
            if device_id is None:
                self._end_enrolment(enrolment)
                reply({"refused": enrolment.refused})
            elif device_id:
                self._take(device_id)  # one a turn: heartbeats come in between

        self._selector.register(enrolment.results, selectors.EVENT_READ, result)

    def run(self) -> None:
        """Serve until stopped; then end every child in order, within 5 s."""
        next_look = 0.0
        while not self._is_stopping:
            for key, events in self._selector.select(LOOK_S):
                key.data(events)
            self._reap()
            now = time.monotonic()
            if now >= next_look:
                next_look = now + LOOK_S
                self._server.expire(now)
                if self._pool is not None:
                    self._pool.look(now)
                for child in self.children.values():
                    child.kill_if_silent(now)
                    if not child.pid and now >= child.restart_at:
                        self._start(child)
        self._shut_down()

    def stop(self, *_: object) -> None:
        """Ask `run` to return."""
        self._is_stopping = True

    def _take(self, device_id: str) -> None:
        home = Home(self.folder / device_id)
        child = Child(device_id, home, home.seat(len(self.children)))
        self.children[device_id] = child
        self._start(child)

    def _start(self, child: Child) -> None:
        recording = self._recordings[field_subject(child.seat)]
        pool = (self.folder, self._engines) if self._pool is not None else None
        child.start(recording, in_child=self._become_device, now=time.monotonic(), pool=pool)
        self._by_pid[child.pid] = child
        control = child.control

        def heard(_events: int) -> None:
            if not child.read() and control is not None:
                self._selector.unregister(control)

        if control is not None:
            self._selector.register(control, selectors.EVENT_READ, heard)

    def _become_device(self) -> None:
        """In a forked device."""
        self._become_child()
        if self._pool is not None:
            self._pool.forget()

    def _become_child(self) -> None:
        """In a forked process: none of the parent's sockets, default signals."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._server.forget()
        for other in self.children.values():
            if other.control is not None:
                other.control.close()
        for enrolment in self._enrolments:
            enrolment.results.close()
        self._selector.close()

    def _reap(self) -> None:
        """Note which devices ended. Waits for none, and for no other child."""
        for pid, child in list(self._by_pid.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._by_pid[pid]
                if child.control is not None:
                    child.read()  # what it said last
                    with contextlib.suppress(KeyError):
                        self._selector.unregister(child.control)
                child.ended(status, time.monotonic())

    def _end_enrolment(self, enrolment: Enrolment) -> None:
        self._selector.unregister(enrolment.results)
        self._enrolments.remove(enrolment)
        enrolment.close()

    def _shut_down(self) -> None:
        for enrolment in list(self._enrolments):
            self._end_enrolment(enrolment)
        for child in self.children.values():
            if child.control is not None:
                with contextlib.suppress(OSError):
                    child.control.send(b'{"kind": "stop"}')
        deadline = time.monotonic() + STOP_S
        left = set(self._by_pid)
        while left and time.monotonic() < deadline:
            left -= {pid for pid in left if os.waitpid(pid, os.WNOHANG)[0]}
            time.sleep(0.02)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if self._pool is not None:
            self._pool.close()
        self._server.close()
        say("stopped", devices=len(self.children), killed=len(left))

    def _handle(self, request: dict[str, Any], reply: Reply) -> None:
        match request.get("do"):
            case "status":
                reply(
                    {
                        "devices": {child.device_id: child.status() for child in self.children.values()},
                        "engine_restarts": self._pool.restarts if self._pool is not None else 0,
                    }
                )
            case "fault":
                child = self.children[str(request["device"])]
                fault = {k: v for k, v in request.items() if k not in ("do", "device", "after_restart")}
                child.suffer(Fault.parse(fault), after_restart=bool(request.get("after_restart")))
                reply({"ok": True})
            case "add":
                self.add(read_tickets(Path(str(request["tickets"]))), reply)
            case "stop":
                self.stop()
                reply({"ok": True})
            case _:
                raise ValueError("do must be status, fault, add or stop")


def _warm(data: Path) -> dict[int, Recording]:
    """Everything that each device would otherwise load for itself, 18 MB of it; returns the recordings.

    The first window makes numpy import its generators and its set operations.
    """
    build.load()
    found = {subject: load_subject(data, subject) for subject in FIELD_SUBJECTS}
    next(stream(found[FIELD_SUBJECTS[0]], seed=0))
    ssl.create_default_context()
    gc.collect()
    gc.freeze()  # or the collector's marks would give each device a copy of its own
    return found


def _locked(path: Path) -> int:
    """Hold an exclusive lock on `path`, waiting for devices of a killed supervisor to end."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    give_up_at = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() >= give_up_at:
                os.close(fd)
                text = f"another supervisor runs devices in {path.parent.name}"
                raise SupervisorError("dir_in_use", text) from None
            time.sleep(0.1)


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m device_firmware.host.supervisor", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="one folder a device, and the control socket")
    parser.add_argument("--data", type=Path, required=True, help="recordings; made here when missing")
    parser.add_argument("--tickets", type=Path, help="what `manage.py devices enrol` wrote")
    parser.add_argument(
        "--engines",
        type=int,
        default=0,
        choices=range(65),
        metavar="N",
        help="worker processes that run TFLM for all devices (default: each device runs its own)",
    )
    parser.add_argument("--idle", action="store_true", help="start only devices that are asked for")
    parser.add_argument("--ca", help="CA file of the backend's HTTPS, when it is a private one")
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        tickets = read_tickets(args.tickets) if args.tickets else []
        prepare(args.data)
        supervisor = Supervisor(args.dir, args.data, ca_file=args.ca, engines=args.engines)
    except (OSError, ValueError, RecordingsError, SupervisorError) as error:
        print(f"supervisor: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, supervisor.stop)
    signal.signal(signal.SIGINT, supervisor.stop)
    say("started", devices=0 if args.idle else supervisor.start_known())
    if tickets:
        supervisor.add(tickets, lambda answer: say("enrolled", devices=len(supervisor.children), **answer))
    supervisor.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
