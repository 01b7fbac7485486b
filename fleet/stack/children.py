"""One supervised child process: how it is described, started, watched, signalled and swept up after.

Every child leads its own process group (a terminal's Ctrl-C reaches only the supervisor), asks the kernel for
a signal when the supervisor dies, and carries a cookie in its environment by which descendants that left the
group are still found.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fleet.stack.errors import ChildFailed, StackError
from fleet.stack.paths import PROJECT_ROOT, write_private

COOKIE_VARIABLE = "FLEET_STACK_COOKIE"
LOG_BYTES_MAX = 8 * 1024 * 1024
TAIL_BYTES, TAIL_LINES, TAIL_LINE_CHARS = 8192, 10, 400
# Where Debian keeps servers; absent from a plain user's PATH.
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")


def find_binary(name: str, *, package: str) -> str:
    """Absolute path of a system program.

    Raises StackError `binary_missing`, naming the Debian package that has it.
    """
    path = shutil.which(name) or shutil.which(name, path=os.pathsep.join(SYSTEM_FOLDERS))
    if path is None:
        raise StackError("binary_missing", f"{name} is not installed: sudo apt-get install {package}")
    return path


@dataclass(frozen=True)
class ChildSpec:
    """What to run, and what counts as running.

    ready: asked every 50 ms until it is true; None means ready once started.
    stop_signal: what asks it to end in good order; `stop_grace_s` later it is killed.
    tier: higher tiers stop first (0: database, queue, broker; 1: the processes that use them).
    is_restarted: started again with back-off when it ends unasked.
    pid_file: kept at the current process id, for those who send it SIGHUP.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = PROJECT_ROOT
    is_restarted: bool = False
    ready: Callable[[Child], bool] | None = None
    ready_deadline_s: float = 30.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 10.0
    tier: int = 1
    pid_file: Path | None = None


class Child:
    """A running (or ended) instance of a ChildSpec.

    Not safe for two threads at once; the supervisor locks.
    """

    def __init__(self, spec: ChildSpec, *, log_path: Path, cookie: str) -> None:
        """Start the process. Raises ChildFailed `child_failed` when its program cannot be executed."""
        self.spec = spec
        self.log_path = log_path
        self.started_at_s = time.monotonic()
        self._log_offset = log_path.stat().st_size if log_path.exists() else 0
        if log_path.exists() and log_path.stat().st_size > LOG_BYTES_MAX:
            log_path.replace(log_path.with_suffix(".log.1"))
        if shutil.which(spec.argv[0]) is None:  # setpriv would start, and fail only later
            raise self.failure(f"{spec.argv[0]} is not a program that can be run")
        environment = {**os.environ, **spec.env, COOKIE_VARIABLE: cookie}
        with open(log_path, "ab", opener=_private) as log:
            self._log_offset = log.tell()
            try:
                self.process = subprocess.Popen(
                    _dying_with_parent(spec),
                    cwd=spec.cwd,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                    umask=0o077,
                )
            except OSError as error:
                raise self.failure(f"cannot be started: {error}") from error
        if spec.pid_file is not None:
            write_private(spec.pid_file, f"{self.process.pid}\n")

    @property
    def pid(self) -> int:
        """Process id; also the id of the child's process group."""
        return self.process.pid

    def is_running(self) -> bool:
        """False from the moment it ended; what is left of its group is killed before its id can be used
        again.
        """
        if self.process.returncode is not None:
            return False
        try:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return True
        except ChildProcessError:
            pass  # reaped by somebody else; poll() below records that
        else:
            self.signal_group(signal.SIGKILL)
        self.process.poll()
        return False

    def how_it_ended(self) -> str:
        """`exit status 3` or `killed by SIGKILL`, for people."""
        status = self.process.returncode
        if status is None:
            return "still running"
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    def log_since_start(self) -> str:
        """What this instance has written so far, at most the last 8 KiB."""
        try:
            with self.log_path.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_offset, end - TAIL_BYTES))
                return log.read(TAIL_BYTES).decode(errors="replace")
        except OSError:
            return ""

    def failure(self, reason: str, *, code: str = "child_failed") -> ChildFailed:
        """The error that tells a person what happened to this child, with its last log lines."""
        tail = "\n".join(_shortened(line) for line in self.log_since_start().splitlines()[-TAIL_LINES:])
        return ChildFailed(code, self.spec.name, reason, log_path=str(self.log_path), log_tail=tail)

    def wait_ready(self) -> None:
        """Return once the child is ready.

        Raises ChildFailed `child_failed` when it ends first, `not_ready` when the deadline passes.
        """
        deadline_s = time.monotonic() + self.spec.ready_deadline_s
        while True:
            if not self.is_running():
                raise self.failure(f"ended before it was ready ({self.how_it_ended()})")
            if self.spec.ready is None or self.spec.ready(self):
                return
            if time.monotonic() > deadline_s:
                raise self.failure(f"not ready after {self.spec.ready_deadline_s:.0f} s", code="not_ready")
            time.sleep(0.05)

    def ask_to_stop(self) -> None:
        """Send the stop signal to the leader only: servers end their own children in order."""
        if self.is_running():
            self.process.send_signal(self.spec.stop_signal)

    def wait_ended(self, deadline_s: float) -> bool:
        """Wait until it ended or the monotonic clock passes `deadline_s`. True when it ended."""
        while self.is_running():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.02)
        return True

    def signal_group(self, number: signal.Signals) -> None:
        """Signal every process in the child's group; harmless when the group is empty.

        Only before it is reaped.
        """
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return


def _shortened(line: str) -> str:
    """A JSON log line may hold a whole traceback: keep its beginning, and its end, which names the error."""
    return line if len(line) <= TAIL_LINE_CHARS else f"{line[:80]} ... {line[80 - TAIL_LINE_CHARS :]}"


def _private(path: str, flags: int) -> int:
    """Opener of files that only their owner may read."""
    return os.open(path, flags, 0o600)


def _dying_with_parent(spec: ChildSpec) -> list[str]:
    """The command line, started so that the kernel sends the stop signal when the supervisor is killed.

    setpriv comes after a leading `unshare ... --`: entering a user namespace clears the request.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return list(spec.argv)
    name = spec.stop_signal.name.removeprefix("SIG")
    request = [setpriv, "--pdeathsig", name, "--"]
    argv = list(spec.argv)
    if Path(argv[0]).name in ("unshare", "setpriv") and "--" in argv:
        cut = argv.index("--") + 1
        return argv[:cut] + request + argv[cut:]
    return request + argv


def processes_with_cookie(cookie: str) -> list[int]:
    """Ids of the living processes that carry our cookie, ourselves excepted."""
    wanted = re.compile(rb"(?:^|\0)" + re.escape(f"{COOKIE_VARIABLE}={cookie}".encode()) + rb"(?:\0|$)")
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted.search((folder / "environ").read_bytes()) and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile, or belongs to somebody else
    return found


def sweep(cookie: str, *, grace_s: float) -> int:
    """End every process that still carries the cookie: SIGTERM, then after `grace_s` SIGKILL.

    Returns how many.
    """
    ended: set[int] = set()
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        deadline_s = time.monotonic() + patience_s
        left = processes_with_cookie(cookie)
        for pid in left:
            ended.add(pid)
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                continue
        while left and time.monotonic() < deadline_s:
            time.sleep(0.05)
            left = processes_with_cookie(cookie)
        if not left:
            break
    return len(ended)
