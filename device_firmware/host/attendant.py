"""Virtual devices on demand: waits for tickets in a folder, and only then starts a supervisor for them.

`python -m device_firmware.host.attendant --dir DIR --data DIR [--ca FILE]` runs until it is told to stop.
Whoever wants devices moves a file of tickets into `DIR/inbox`; it is deleted once its devices are enrolled.
Waiting costs a few megabytes: recordings and TFLM are loaded by the supervisor, which is started with the
first ticket, or at once when DIR holds devices of an earlier run. `DIR/attendant.lock` is locked meanwhile,
so that anybody can see whether tickets will be taken; what went wrong last stands in `DIR/problem.txt`.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from device_firmware.host.control import ask
from device_firmware.host.devicelog import say

INBOX, LOCK, PROBLEM = "inbox", "attendant.lock", "problem.txt"
LOOK_S = 0.3
UP_S = 180.0  # recordings may have to be fetched first
STOP_S = 12.0
ADD_S = 120.0


class AttendantError(Exception):
    """`code` is `dir_in_use` (another attendant), `no_supervisor`, or the enrolment's own."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


def is_attended(folder: Path) -> bool:
    """Whether somebody takes tickets from this folder now."""
    try:
        fd = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class Attendant:
    """Owns the supervisor's process. One loop; every wait has a bound."""

    def __init__(self, folder: Path, supervisor: Sequence[str]) -> None:
        """Take the folder. supervisor: the command that runs the devices. Raises AttendantError
        `dir_in_use`.
        """
        self.folder = folder
        self._command = supervisor
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False
        (folder / INBOX).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise AttendantError("dir_in_use", f"another attendant has {folder.name}") from None

    def run(self) -> None:
        """Serve until stopped; then end the supervisor and with it the devices."""
        is_wanted = any(self.folder.glob("*/identity.json"))
        while not self._is_stopping:
            waiting = sorted((self.folder / INBOX).glob("*.jsonl"))
            if waiting or (is_wanted and (self._process is None or self._process.poll() is not None)):
                is_wanted = True
                self._serve(waiting)
            time.sleep(LOOK_S)
        self._end()

    def stop(self, *_: object) -> None:
        """Ask `run` to return."""
        self._is_stopping = True

    def _serve(self, waiting: Sequence[Path]) -> None:
        """Have the devices of these files enrolled and started; a file that fails is deleted too, since its
        tokens may be used, and the reason is kept.
        """
        problem = self.folder / PROBLEM
        try:
            self._up()
            for path in waiting:
                refused = ask(self.folder, {"do": "add", "tickets": str(path)}, timeout_s=ADD_S)["refused"]
                path.unlink(missing_ok=True)
                if refused:
                    device_id, code = next(iter(refused.items()))
                    raise AttendantError(str(code), f"{len(refused)} devices were refused, first {device_id}")
            problem.unlink(missing_ok=True)
        except (OSError, ValueError, KeyError, AttendantError) as error:
            say("failed", error=str(error))
            problem.write_text(f"{error}\n")
            for path in waiting:
                path.unlink(missing_ok=True)

    def _up(self) -> None:
        """Start the supervisor unless it runs, and wait until it answers. Raises AttendantError."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(self._command)
        deadline = time.monotonic() + UP_S
        while not self._is_stopping:
            if (ended := self._process.poll()) is not None:
                raise AttendantError(
                    "no_supervisor", f"it ended with {ended}; the log of the attendant says why"
                )
            try:
                ask(self.folder, {"do": "status"}, timeout_s=5)
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise AttendantError("no_supervisor", f"no answer within {UP_S:.0f} s") from None
            time.sleep(LOOK_S)

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        os.close(self._lock)


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m device_firmware.host.attendant", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="one folder a device, and the inbox")
    parser.add_argument("--data", type=Path, required=True, help="recordings; made here when missing")
    parser.add_argument("--ca", help="CA file of the backend's HTTPS, when it is a private one")
    args = parser.parse_args(argv)
    command = [sys.executable, "-m", "device_firmware.host.supervisor", "--dir", str(args.dir)]
    command += ["--data", str(args.data), *(["--ca", args.ca] if args.ca else [])]
    try:
        attendant = Attendant(args.dir, command)
    except (OSError, AttendantError) as error:
        print(f"attendant: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, attendant.stop)
    signal.signal(signal.SIGINT, attendant.stop)
    say("waiting")
    attendant.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
