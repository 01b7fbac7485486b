"""The supervisor: starts children in order, restarts services that end unasked, and stops everything it
started.

A watching thread restarts; starting and stopping happen in the caller's thread. The thread lives until the
last child is gone, because the kernel ties a child's death signal to the thread that started it.
"""

from __future__ import annotations

import secrets
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fleet.stack.children import COOKIE_VARIABLE, Child, ChildSpec, sweep
from fleet.stack.errors import StackError

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 15.0
STEADY_AFTER_S = 20.0
GIVE_UP_AFTER = 6
WATCH_INTERVAL_S = 0.2
STOP_DEADLINE_S = 120.0


class Supervisor:
    """Children of one stack. Use it as a context manager: leaving it stops them all."""

    def __init__(self, logs: Path, *, say: Callable[[str], None]) -> None:
        """logs: folder for one file per child. say: receives one line for each thing a person should know."""
        self._logs = logs
        self._say = say
        self._cookie = secrets.token_hex(16)
        self._lock = threading.RLock()
        self._children: dict[str, Child] = {}
        self._quick_ends: dict[str, int] = {}
        self._restart_at_s: dict[str, float] = {}
        self._held: set[str] = set()
        self._ending = threading.Event()
        self._gone = threading.Event()
        self._hurry = threading.Event()
        self._failure: StackError | None = None
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *specs: ChildSpec) -> None:
        """Start children together and return once each is ready.

        Raises ChildFailed (`child_failed`, `not_ready`) with the last log lines of the first that fails; the
        children named in this call are then gone. Raises StackError `state` for a name that is in use.
        """
        started: list[Child] = []
        try:
            for spec in specs:
                started.append(self._launch(spec))
            for child in started:
                child.wait_ready()
        except BaseException:
            for child in reversed(started):
                self.stop_one(child.spec.name)
            raise
        with self._lock:
            self._held.difference_update(child.spec.name for child in started)
        self._watch_from_now()

    def _launch(self, spec: ChildSpec) -> Child:
        """Start one child, held back from the watching thread until somebody has seen it ready."""
        with self._lock:
            if spec.name in self._children:
                raise StackError("state", f"a child named {spec.name} exists already")
            child = Child(spec, log_path=self._logs / f"{spec.name}.log", cookie=self._cookie)
            self._children[spec.name] = child
            self._held.add(spec.name)
        return child

    def run(self, spec: ChildSpec, *, deadline_s: float) -> str:
        """Run a one-shot child to its end and return what it wrote (at most 8 KiB).

        Raises ChildFailed `child_failed` for another exit status than 0, `not_ready` when `deadline_s`
        passes.
        """
        child = self._launch(spec)
        try:
            if not child.wait_ended(time.monotonic() + deadline_s):
                raise child.failure(f"not finished after {deadline_s:.0f} s", code="not_ready")
            if child.process.returncode != 0:
                raise child.failure(child.how_it_ended())
            return child.log_since_start()
        finally:
            self.stop_one(spec.name)

    def _watch_from_now(self) -> None:
        """Start the watching thread, once."""
        with self._lock:
            if self._watcher is None and not self._ending.is_set():
                self._watcher = threading.Thread(target=self._watch, name="stack-watcher", daemon=True)
                self._watcher.start()

    def cookie_env(self) -> dict[str, str]:
        """Environment by which `stop` finds a process that the caller starts itself."""
        return {COOKIE_VARIABLE: self._cookie}

    def pid(self, name: str) -> int:
        """Process id of the running child `name`. Raises KeyError for a name that was never started."""
        with self._lock:
            return self._children[name].pid

    def names(self) -> tuple[str, ...]:
        """Names of the children, in the order they were started."""
        with self._lock:
            return tuple(self._children)

    def is_running(self, name: str) -> bool:
        """True when the child `name` exists and has not ended."""
        with self._lock:
            child = self._children.get(name)
            return child is not None and child.is_running()

    def failure(self) -> StackError | None:
        """Why the stack can no longer do its work, or None while it can."""
        return self._failure

    def wait(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Block until `until()` is true or the stack is stopped.

        Raises the StackError of a child that ended for good.
        """
        while not until() and not self._ending.is_set():
            if self._failure is not None:
                raise self._failure
            self._ending.wait(WATCH_INTERVAL_S)

    def hurry(self) -> None:
        """Make a `stop` in progress kill what it would have waited for (a second Ctrl-C)."""
        self._hurry.set()

    def stop_one(self, name: str) -> None:
        """Stop the child `name` and forget it; harmless when there is none."""
        with self._lock:
            child = self._children.get(name)
            self._held.add(name)  # else the watching thread would start it again
        if child is not None:
            self._end([child])
        with self._lock:
            self._children.pop(name, None)
            self._restart_at_s.pop(name, None)
            self._held.discard(name)

    def stop(self) -> None:
        """Stop every child, highest tier first, then whatever they left behind.

        Returns with nothing running.
        """
        self._ending.set()
        with self._lock:
            children = list(self._children.values())
        for tier in sorted({child.spec.tier for child in children}, reverse=True):
            self._end([child for child in children if child.spec.tier == tier])
        left = sweep(self._cookie, grace_s=0.0 if self._hurry.is_set() else 3.0)
        if left:
            self._say(f"ended {left} process(es) that their parents had left behind")
        self._gone.set()
        if self._watcher is not None:
            self._watcher.join(timeout=10)
        with self._lock:
            self._children.clear()

    def _end(self, children: list[Child]) -> None:
        """Ask all of `children` to stop at once, wait for each, kill those that do not listen."""
        with self._lock:
            for child in reversed(children):
                child.ask_to_stop()
        started_s = time.monotonic()
        for child in children:
            deadline_s = started_s + child.spec.stop_grace_s
            while not child.wait_ended(min(deadline_s, time.monotonic() + 0.1)):
                if time.monotonic() > deadline_s or self._hurry.is_set():
                    self._say(f"{child.spec.name}: did not stop in time and is killed")
                    child.process.kill()
                    child.wait_ended(time.monotonic() + 5.0)
                    break
            if child.spec.pid_file is not None:
                child.spec.pid_file.unlink(missing_ok=True)

    def _watch(self) -> None:
        """Body of the watching thread."""
        while not self._ending.wait(WATCH_INTERVAL_S):
            with self._lock:
                for name, child in list(self._children.items()):
                    if name not in self._held and not self._ending.is_set():
                        self._look_at(name, child)
        self._gone.wait(STOP_DEADLINE_S)  # ending earlier would end the children this thread has restarted

    def _look_at(self, name: str, child: Child) -> None:
        """Restart `child` when it has ended and its pause is over; record the failure of one that may not
        restart.
        """
        if child.is_running():
            if self._quick_ends.get(name) and time.monotonic() - child.started_at_s > STEADY_AFTER_S:
                self._quick_ends[name] = 0
            return
        if self._failure is not None:
            return
        if name not in self._restart_at_s:
            self._plan_restart(name, child)
        elif time.monotonic() >= self._restart_at_s[name]:
            del self._restart_at_s[name]
            try:
                self._children[name] = Child(child.spec, log_path=child.log_path, cookie=self._cookie)
            except (StackError, subprocess.SubprocessError) as error:
                self._say(f"{name}: restart failed: {error}")
                self._plan_restart(name, child)

    def _plan_restart(self, name: str, child: Child) -> None:
        """Decide when an ended child starts again, or that it has failed for good."""
        ends = self._quick_ends[name] = self._quick_ends.get(name, 0) + 1
        if not child.spec.is_restarted:
            self._failure = child.failure(f"ended unasked ({child.how_it_ended()})")
        elif ends > GIVE_UP_AFTER:
            self._failure = child.failure(f"ended {ends} times in a row ({child.how_it_ended()})")
        if self._failure is not None:
            self._say(str(self._failure))
            return
        pause_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (ends - 1))
        self._restart_at_s[name] = time.monotonic() + pause_s
        self._say(f"{name}: ended unasked ({child.how_it_ended()}), starts again in {pause_s:.1f} s")
