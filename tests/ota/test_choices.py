"""Every set of states: label, tone, edges and terminal flags fit together."""

from __future__ import annotations

import pytest
from django.db.models import TextChoices

from ota import choices
from ota.choices import JobState, RolloutState, Tone, WaveState
from ota.verbs import VERBS

SETS: dict[str, type[TextChoices]] = {
    "rollout": choices.RolloutState,
    "wave": choices.WaveState,
    "job": choices.JobState,
    "version": choices.VersionState,
    "staging": choices.StagingState,
    "verdict": choices.VerdictKind,
    "gate": choices.Verdict,
}
MACHINES = {
    "rollout": (RolloutState, choices.ROLLOUT_EDGES, choices.ROLLOUT_TERMINAL),
    "wave": (WaveState, choices.WAVE_EDGES, choices.WAVE_TERMINAL),
    "job": (JobState, choices.JOB_EDGES, choices.JOB_TERMINAL),
}
# a terminal job leaves only because the device's inventory says otherwise, or with its device
RECONCILED = {
    (JobState.TIMED_OUT, JobState.CONFIRMED),
    (JobState.CANCELLED, JobState.CONFIRMED),
    (JobState.CONFIRMED, JobState.SELF_REVERTED),
}


@pytest.mark.parametrize("name", SETS)
def test_every_value_has_a_label_and_a_tone(name: str) -> None:
    values = set(SETS[name])
    assert set(choices.TONES[name]) == values
    assert all(isinstance(tone, Tone) for tone in choices.TONES[name].values())
    labels = [str(value.label) for value in SETS[name]]
    assert all(label and label == label.strip() for label in labels)
    assert len(set(labels)) == len(labels)


def test_no_set_of_tones_is_left_over() -> None:
    assert set(choices.TONES) == set(SETS)


@pytest.mark.parametrize("name", MACHINES)
def test_edges_name_known_states_and_none_is_unreachable(name: str) -> None:
    states, edges, _ = MACHINES[name]
    assert set(edges) == set(states)
    targets = {to for ends in edges.values() for to in ends}
    assert targets <= set(states)
    start = {"rollout": "draft", "wave": "pending", "job": "queued"}[name]
    assert set(states) - targets == ({start} - targets)
    assert all(state not in ends for state, ends in edges.items())


@pytest.mark.parametrize("name", MACHINES)
def test_a_terminal_state_has_no_edge_but_reconciliation(name: str) -> None:
    _, edges, terminal = MACHINES[name]
    for state in terminal:
        left = {(state, to) for to in edges[state] if to != JobState.REMOVED}
        assert left <= RECONCILED, state
    for state in set(edges) - set(terminal):
        assert edges[state], f"{state} is a dead end"


def test_only_confirmed_is_good_among_jobs() -> None:
    good = {state for state, tone in choices.TONES["job"].items() if tone == Tone.GOOD}
    assert good == {JobState.CONFIRMED}


def test_every_rollout_state_has_its_verbs() -> None:
    assert set(VERBS) == set(RolloutState)
    assert all(not VERBS[state] for state in choices.ROLLOUT_TERMINAL - {RolloutState.COMPLETED})
    assert VERBS[RolloutState.COMPLETED] == ("create-revert",), "a further rollout, this one stays"


def test_the_named_sets_hold_states() -> None:
    assert choices.JOB_WITHDRAWABLE - {JobState.DEFERRED} < choices.JOB_IN_FLIGHT
    assert not choices.JOB_IN_FLIGHT & choices.JOB_TERMINAL
    assert not choices.WAVE_ACTIVE & choices.WAVE_TERMINAL
    assert not choices.ROLLOUT_LIVE & choices.ROLLOUT_TERMINAL
