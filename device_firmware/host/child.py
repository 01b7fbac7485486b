"""One virtual device as its supervisor sees it: a process, what it last said, how it ended, when to start
again.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_firmware.host.core import Reset, exit_cut
from device_firmware.host.device import EXIT_REBOOT, EXIT_STOP, Device
from device_firmware.host.devicelog import say
from device_firmware.host.faults import Fault, Lasting
from device_firmware.host.home import Home
from device_firmware.host.recordings import Recording, stream

SILENT_S = 10.0  # no heartbeat for so long is a hang: killed, reset reason WATCHDOG
RESTART_S, RESTART_MAX_S = 0.5, 30.0
STEADY_S = 20.0  # a life of at least so long lets the next restart be quick again
EXIT_DIED = 1
_PR_SET_PDEATHSIG = 1
_ORDERED = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


class Child:
    """The process of one device. `pid` is 0 while it is down."""

    def __init__(self, device_id: str, home: Home, seat: int) -> None:
        self.device_id = device_id
        self.home = home
        self.seat = seat
        self.pid = 0
        self.control: socket.socket | None = None
        self.restart_at = 0.0
        self.restarts: dict[str, int] = {}
        self.waiting: list[Fault] = []
        self.acted: dict[str, int] = {}  # what faults did in former lives
        self.seen: dict[str, int] = {}  # states, and how often each was entered
        self._lasting = Lasting()
        self._reason = Reset.POWER
        self._beat: dict[str, Any] = {}
        self._beat_at = 0.0
        self._started_at = 0.0
        self._pause_s = RESTART_S
        self._is_killed = False

    def start(
        self,
        recording: Recording,
        *,
        in_child: Callable[[], None],
        now: float,
        pool: tuple[Path, int] | None = None,
    ) -> None:
        """Fork the device. in_child: closes what the parent has open. pool: see `Device`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = EXIT_DIED
            try:
                ours.close()  # or this process would keep its own control socket from ever ending
                _die_with(parent)
                in_child()
                windows = stream(recording, seed=self.seat)
                device = Device(self.home, windows, control=theirs, seed=self.seat, pool=pool)
                status = device.run(self._reason)
            except BaseException as error:
                say("died", device=self.device_id, text=repr(error))
            finally:
                os._exit(status)
        theirs.close()
        ours.setblocking(False)
        self.pid, self.control = pid, ours
        self._started_at = self._beat_at = now
        self._beat = {}  # what it said in its last life is over
        self._is_killed = False
        for fault in self._lasting.left(now):
            ours.send(fault.packet())
        while self.waiting:
            fault = self.waiting.pop(0)
            ours.send(fault.packet())
            if fault.ends_life:
                break  # what follows is for the next life

    def read(self) -> bool:
        """Take heartbeats. False when the device closed its end."""
        while self.control is not None:
            try:
                packet = self.control.recv(4096)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not packet:
                return False
            self._beat, self._beat_at = json.loads(packet), time.monotonic()
            for state in self._beat.pop("seen", ()):
                self.seen[state] = self.seen.get(state, 0) + 1
        return False

    def suffer(self, fault: Fault, *, after_restart: bool) -> None:
        """Pass a fault on, now or when the device starts the next time. Raises OSError when it cannot
        listen.
        """
        if fault.is_lasting:
            self._lasting.begin(fault, time.monotonic())
            if self.control is not None:
                self.control.send(fault.packet())
        elif self.control is None or after_restart:
            self.waiting.append(fault)
        else:
            self.control.send(fault.packet())

    def kill_if_silent(self, now: float) -> None:
        """What a board's watchdog does. Heartbeats that wait to be read count: the slow one may be us."""
        if not self.pid or self._is_killed or now - self._beat_at <= SILENT_S:
            return
        self.read()
        if now - self._beat_at > SILENT_S:
            self._is_killed = True
            say("silent", device=self.device_id)
            os.kill(self.pid, signal.SIGKILL)

    def ended(self, status: int, now: float) -> None:
        """The process is gone: note why, and when to start it again.

        A device that dies young again and again is restarted after pauses that double up to 30 s.
        """
        self.pid = 0
        for kind, count in self._beat.pop("acted", {}).items():
            self.acted[kind] = self.acted.get(kind, 0) + count
        if self.control is not None:
            self.control.close()
            self.control = None
        if now - self._started_at >= STEADY_S:
            self._pause_s = RESTART_S
        self._reason = Reset.WATCHDOG if self._is_killed else reset_reason(status)
        name = self._reason.name.lower()
        self.restarts[name] = self.restarts.get(name, 0) + 1
        self.restart_at = now + self._pause_s
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        say("restart", device=self.device_id, reason=name, how=how, pause_s=self._pause_s)
        self._pause_s = min(RESTART_MAX_S, self._pause_s * 2)

    def status(self) -> dict[str, Any]:
        """For the control socket."""
        acted = dict(self.acted)
        for kind, count in self._beat.get("acted", {}).items():
            acted[kind] = acted.get(kind, 0) + count
        return {
            **self._beat,
            "pid": self.pid,
            "restarts": self.restarts,
            "acted": acted,
            "seen": self.seen,
        }


def reset_reason(status: int) -> Reset:
    """The reset reason a board would see for this wait status.

    Ending it from outside (SIGKILL, SIGTERM) is a loss of power; any other signal, or a Python exception,
    is a panic.
    """
    if os.WIFSIGNALED(status):
        return Reset.POWER if os.WTERMSIG(status) in _ORDERED else Reset.PANIC
    code = os.WEXITSTATUS(status)
    if code in (exit_cut(), EXIT_STOP):
        return Reset.POWER
    return Reset.EXPECTED if code == EXIT_REBOOT else Reset.PANIC


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, which also ends one that hangs in a model."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(EXIT_STOP)
