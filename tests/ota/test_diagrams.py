"""The diagrams in the guide are what the tables give."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import call_command

from ota import choices, diagrams
from ota.choices import JobState, RolloutState, WaveState

MACHINES = {
    "rollout": (RolloutState, choices.ROLLOUT_EDGES, choices.ROLLOUT_TERMINAL, RolloutState.DRAFT),
    "wave": (WaveState, choices.WAVE_EDGES, choices.WAVE_TERMINAL, WaveState.PENDING),
    "job": (JobState, choices.JOB_EDGES, choices.JOB_TERMINAL, JobState.QUEUED),
}


def test_the_committed_guide_equals_the_tables() -> None:
    assert diagrams.GUIDE.read_text() == diagrams.guide(), "run: manage.py diagrams --write"


def test_the_command_prints_what_it_would_write() -> None:
    out = StringIO()
    call_command("diagrams", stdout=out)
    assert out.getvalue() == diagrams.guide()


@pytest.mark.parametrize("name", MACHINES)
def test_a_diagram_has_every_edge_of_its_table_and_no_other(name: str) -> None:
    states, edges, terminal, start = MACHINES[name]
    lines = diagrams.diagram(name, edges, terminal, start=start).splitlines()
    drawn = {tuple(line.split(" --> ")) for line in map(str.strip, lines) if " --> " in line}
    expected = {(str(state), str(to)) for state, ends in edges.items() for to in ends}
    assert drawn == expected | {("[*]", str(start))} | {(str(state), "[*]") for state in terminal}
    coloured = {
        word for line in lines if line.startswith("    class ") for word in line.split()[1].split(",")
    }
    assert coloured == set(states)


def test_the_short_diagram_of_a_job_still_reaches_every_state_but_removal() -> None:
    shown = diagrams._without_shortcuts(choices.JOB_EDGES)
    assert all(ends <= choices.JOB_EDGES[state] for state, ends in shown.items())
    reached, left = {JobState.QUEUED.value}, [JobState.QUEUED.value]
    while left:
        fresh = {str(to) for to in shown[left.pop()]} - reached
        reached |= fresh
        left += fresh
    assert reached == {str(state) for state in JobState} - {"removed"}
