"""The supervisor: readiness, restarts, failures told with their reason, and nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.stack.children import ChildSpec
from fleet.stack.errors import ChildFailed, StackError
from fleet.stack.paths import PROJECT_ROOT
from fleet.stack.processes import Supervisor
from tests.stack.services import wait_until

READY = "print('ready', flush=True); "
SLEEP = "import time; time.sleep(120)"
# A child that leaves two processes behind: one in its group, one in a session of its own.
FAMILY = (
    "import subprocess, sys, time\n"
    "near = subprocess.Popen(['sleep', '120'])\n"
    "far = subprocess.Popen(['sleep', '120'], start_new_session=True)\n"
    "print('ready', near.pid, far.pid, flush=True)\n"
    "time.sleep(120)"
)


def python(name: str, program: str, **fields: object) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-c", program), **fields)  # type: ignore[arg-type]


def waits_for_ready(name: str, program: str, **fields: object) -> ChildSpec:
    return python(name, program, ready=lambda child: "ready" in child.log_since_start(), **fields)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Said:
    """What the supervisor told people."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def supervisor(tmp_path: Path, said: Said) -> Iterator[Supervisor]:
    with Supervisor(tmp_path, say=said) as running:
        yield running


def family(tmp_path: Path, name: str = "family") -> list[int]:
    return [int(word) for word in (tmp_path / f"{name}.log").read_text().split()[1:3]]


def test_start_returns_when_the_child_is_ready_and_stop_ends_it(tmp_path: Path, said: Said) -> None:
    with Supervisor(tmp_path, say=said) as supervisor:
        supervisor.start(waits_for_ready("one", READY + SLEEP), waits_for_ready("two", READY + SLEEP))
        pids = [supervisor.pid(name) for name in supervisor.names()]
        assert supervisor.names() == ("one", "two")
        assert all(is_alive(pid) for pid in pids)
    assert [pid for pid in pids if is_alive(pid)] == []


def test_a_child_that_ends_before_it_is_ready_is_told_with_its_last_words(supervisor: Supervisor) -> None:
    with pytest.raises(ChildFailed) as caught:
        supervisor.start(waits_for_ready("broken", "import sys; sys.exit('the disk is missing')"))
    assert caught.value.code == "child_failed"
    assert "broken: ended before it was ready (exit status 1)" in str(caught.value)
    assert "| the disk is missing" in str(caught.value)
    assert supervisor.names() == ()


def test_a_child_that_never_gets_ready_is_stopped(supervisor: Supervisor) -> None:
    with pytest.raises(ChildFailed) as caught:
        supervisor.start(waits_for_ready("slow", SLEEP, ready_deadline_s=0.3))
    assert caught.value.code == "not_ready"
    assert not supervisor.is_running("slow")


def test_a_program_that_does_not_exist_is_named(supervisor: Supervisor) -> None:
    with pytest.raises(ChildFailed) as caught:
        supervisor.start(ChildSpec("ghost", ("/nonexistent/program",)))
    assert "/nonexistent/program" in str(caught.value)


def test_one_name_is_one_child(supervisor: Supervisor) -> None:
    supervisor.start(python("same", SLEEP))
    with pytest.raises(StackError) as caught:
        supervisor.start(python("same", SLEEP))
    assert caught.value.code == "state"
    assert supervisor.is_running("same")  # the first one is left alone


def test_stop_ends_grandchildren_also_those_in_another_session(tmp_path: Path, said: Said) -> None:
    with Supervisor(tmp_path, say=said) as supervisor:
        supervisor.start(waits_for_ready("family", FAMILY))
        grandchildren = family(tmp_path)
        assert all(is_alive(pid) for pid in grandchildren)
    assert [pid for pid in grandchildren if is_alive(pid)] == []


def test_a_child_that_ignores_the_stop_signal_is_killed(tmp_path: Path, said: Said) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY + SLEEP
    with Supervisor(tmp_path, say=said) as supervisor:
        supervisor.start(waits_for_ready("deaf", deaf, stop_grace_s=0.2))
        pid = supervisor.pid("deaf")
    assert not is_alive(pid)
    assert "deaf: did not stop in time and is killed" in said.lines


def test_hurrying_cuts_a_patient_stop_short(tmp_path: Path, said: Said) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY + SLEEP
    with Supervisor(tmp_path, say=said) as supervisor:
        supervisor.start(waits_for_ready("deaf", deaf, stop_grace_s=100.0))
        supervisor.hurry()
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 50.0


def test_a_killed_service_starts_again_and_its_old_group_is_gone(
    supervisor: Supervisor, said: Said, tmp_path: Path
) -> None:
    supervisor.start(waits_for_ready("family", FAMILY, is_restarted=True))
    first, (near, _) = supervisor.pid("family"), family(tmp_path)
    os.kill(first, signal.SIGKILL)
    wait_until(
        lambda: supervisor.pid("family") != first and supervisor.is_running("family"), what="a restart"
    )
    assert "family: ended unasked (killed by SIGKILL), starts again in 0.5 s" in said.lines
    assert not is_alive(near)
    assert supervisor.failure() is None


def test_a_child_that_may_not_restart_fails_the_stack(supervisor: Supervisor) -> None:
    supervisor.start(python("once", "import time; time.sleep(0.3); raise SystemExit('gone')"))
    with pytest.raises(ChildFailed) as caught:
        supervisor.wait(until=lambda: False)
    assert caught.value.name == "once"
    assert "gone" in str(caught.value)


def test_a_service_that_ends_again_and_again_fails_the_stack(
    supervisor: Supervisor, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.stack.processes.BACKOFF_MAX_S", 0.05)
    monkeypatch.setattr("fleet.stack.processes.BACKOFF_FIRST_S", 0.05)
    supervisor.start(python("moth", "raise SystemExit('the lamp')", is_restarted=True))
    wait_until(lambda: supervisor.failure() is not None, deadline_s=30, what="the supervisor to give up")
    assert "ended 7 times in a row (exit status 1)" in str(supervisor.failure())
    assert sum("starts again" in line for line in said.lines) == 6


def test_stop_one_is_not_a_failure_and_not_restarted(supervisor: Supervisor) -> None:
    supervisor.start(waits_for_ready("service", READY + SLEEP, is_restarted=True))
    pid = supervisor.pid("service")
    supervisor.stop_one("service")
    assert not is_alive(pid)
    assert "service" not in supervisor.names()
    supervisor.start(waits_for_ready("service", READY + SLEEP, is_restarted=True))  # the name is free again
    assert supervisor.failure() is None


def test_a_one_shot_child_gives_back_its_output_or_its_failure(supervisor: Supervisor) -> None:
    assert supervisor.run(python("hello", "print('hi')"), deadline_s=20) == "hi\n"
    with pytest.raises(ChildFailed, match="exit status 3"):
        supervisor.run(python("three", "raise SystemExit(3)"), deadline_s=20)
    with pytest.raises(ChildFailed) as caught:
        supervisor.run(python("late", SLEEP), deadline_s=0.2)
    assert caught.value.code == "not_ready"
    assert supervisor.names() == ()


def test_a_log_is_readable_by_its_owner_only(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(waits_for_ready("quiet", READY + SLEEP))
    assert (tmp_path / "quiet.log").stat().st_mode & 0o777 == 0o600


def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from fleet.stack.children import ChildSpec; from fleet.stack.processes import Supervisor\n"
        "supervisor = Supervisor(Path(sys.argv[1]), say=print)\n"
        "supervisor.start(ChildSpec('child', ('sleep', '120')))\n"
        "print(supervisor.pid('child'), flush=True); time.sleep(120)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        # setpriv asks the kernel for the signal and then becomes the program
        wait_until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n", what="the child's program")
        parent.kill()
        parent.wait()
        wait_until(lambda: not is_alive(child), what="the kernel to end the child")
