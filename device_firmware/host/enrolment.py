"""Enrolment of many devices at once, in a process of its own.

The supervisor forks devices, so it has no threads; and it must go on listening to heartbeats while a slow
backend
answers. So one child process claims all identities, several at a time, and tells the result of each.
"""

import json
import os
import signal
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from device_firmware.host.devicelog import say
from device_firmware.host.home import Home
from device_firmware.host.identity import EnrolError, Ticket, claim, tls_context

PARALLEL = 16


class Enrolment:
    """A running enrolment. `results` yields a packet {"device", "code"} per ticket, code "" when it
    succeeded; at its end the process is gone.
    """

    def __init__(
        self, folder: Path, tickets: Sequence[Ticket], *, ca_file: str | None, in_child: Callable[[], None]
    ) -> None:
        """in_child: closes what the parent has open."""
        self.results, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.open = {ticket.device_id for ticket in tickets}
        self.refused: dict[str, str] = {}
        self.pid = os.fork()
        if self.pid == 0:
            try:
                in_child()
                self.results.close()
                _claim_all(folder, tickets, ca_file, theirs)
            except BaseException as error:
                say("enrolment_died", text=repr(error))
            finally:
                os._exit(0)
        theirs.close()
        self.results.setblocking(False)

    def read(self) -> str | None:
        """The next device that has an identity now, "" for one that was refused; None at the end.

        Devices that have no result at the end are refused as `enrolment_failed`. Raises BlockingIOError.
        """
        packet = self.results.recv(65_536)
        if not packet:
            self.refused |= dict.fromkeys(sorted(self.open), "enrolment_failed")
            return None
        result = json.loads(packet)
        self.open.discard(result["device"])
        if result["code"]:
            self.refused[result["device"]] = result["code"]
            return ""
        return str(result["device"])

    def close(self) -> None:
        """End the process when it still runs, and forget it."""
        os.kill(self.pid, signal.SIGKILL)  # a zombie at the latest: only this method waits for it
        os.waitpid(self.pid, 0)
        self.results.close()


def _claim_all(folder: Path, tickets: Sequence[Ticket], ca_file: str | None, out: socket.socket) -> None:
    tls = tls_context(ca_file)

    def one(ticket: Ticket) -> None:
        code = ""
        try:
            home = Home(folder / ticket.device_id)
            if not home.identity_file.exists():
                home.make()
                claim(ticket, tls=tls).save(home.identity_file)
        except EnrolError as error:
            code = error.code
            say("enrol_refused", device=ticket.device_id, code=code, text=error.text)
        except OSError as error:
            code = "no_folder"
            say("enrol_refused", device=ticket.device_id, code=code, text=str(error))
        out.send(json.dumps({"device": ticket.device_id, "code": code}).encode())

    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(one, tickets))
