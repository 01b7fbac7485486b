"""State diagrams of the three machines, drawn from the tables of `ota.choices` and `ota.verbs`.

A diagram shows every edge a transition may take and no other, because `ota.transitions` reads the same table.
The text is Mermaid inside Markdown: it needs no tool here, and pages that show Markdown draw it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ota.choices import (
    JOB_EDGES,
    JOB_TERMINAL,
    ROLLOUT_EDGES,
    ROLLOUT_TERMINAL,
    TONES,
    WAVE_EDGES,
    WAVE_TERMINAL,
    JobState,
    RolloutState,
    WaveState,
)
from ota.verbs import VERBS

GUIDE: Final = Path(__file__).resolve().parent.parent / "deploy" / "guides" / "machines.md"
"""Where `manage.py diagrams --write` puts them; a test compares the file with the tables."""
_COLOURS: Final = {
    "neutral": "fill:#eceff3,color:#1c2430",
    "active": "fill:#dbe8ff,color:#1c2430",
    "good": "fill:#d9f2e1,color:#1c2430",
    "attention": "fill:#fff1cc,color:#1c2430",
    "bad": "fill:#fbdcdc,color:#1c2430",
}
_HEAD = """# The three machines

Written by `manage.py diagrams --write` from `ota/choices.py` and `ota/verbs.py`: change those, not this file.
A transition that is not drawn here cannot be made; one that is made leaves its audit row in the same
transaction.
"""
_JOB_NOTE = """A report may skip steps, so a job moves on to any later state of its way; the diagram shows
the next step and the outcomes, and the table all edges. `removed`: the device was retired; every other state
may end so.
"""


def guide() -> str:
    """The whole guide as Markdown, the same for the same tables."""
    return "\n".join(
        [
            _HEAD,
            "## Rollout\n",
            diagram("rollout", ROLLOUT_EDGES, ROLLOUT_TERMINAL, start=RolloutState.DRAFT),
            edge_table(ROLLOUT_EDGES),
            verb_table(),
            "## Wave\n",
            diagram("wave", WAVE_EDGES, WAVE_TERMINAL, start=WaveState.PENDING),
            edge_table(WAVE_EDGES),
            "## Device job\n",
            _JOB_NOTE,
            diagram("job", _without_shortcuts(JOB_EDGES), JOB_TERMINAL, start=JobState.QUEUED),
            edge_table(JOB_EDGES).rstrip("\n") + "\n",
        ]
    )


def diagram(
    machine: str, edges: Mapping[str, frozenset[str]], terminal: frozenset[str], *, start: str
) -> str:
    """A Mermaid state diagram. machine: whose tones colour the states, a key of `TONES`."""
    order = list(edges)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {start}"]
    for state in order:
        lines += [f"    {state} --> {to}" for to in sorted(edges[state], key=order.index)]
        if state in terminal:
            lines.append(f"    {state} --> [*]")
    for tone, style in _COLOURS.items():
        states = [str(state) for state in order if TONES[machine][state] == tone]
        if states:
            lines += [f"    classDef {tone} {style}", f"    class {','.join(states)} {tone}"]
    return "\n".join([*lines, "```", ""])


def edge_table(edges: Mapping[str, frozenset[str]]) -> str:
    """Every state with the states it may go to, as a Markdown table."""
    order = list(edges)
    lines = ["| from | to |", "|---|---|"]
    for state in order:
        ends = ", ".join(f"`{to}`" for to in sorted(edges[state], key=order.index))
        lines.append(f"| `{state}` | {ends or 'nothing: it has ended'} |")
    return "\n".join([*lines, ""])


def verb_table() -> str:
    """What a person may ask for in each state of a rollout, as a Markdown table."""
    lines = ["| in state | a person may |", "|---|---|"]
    lines += [f"| `{state}` | {', '.join(names) or 'nothing'} |" for state, names in VERBS.items()]
    return "\n".join([*lines, ""])


def _without_shortcuts(edges: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Without removal and steps that skip one: what is left fits on a page and reaches every state."""
    order, way = list(edges), [JobState.OFFERED, JobState.ACCEPTED, JobState.DOWNLOADING]
    way += [JobState.VERIFYING, JobState.STAGED, JobState.TRIAL]
    shown: dict[str, frozenset[str]] = {}
    for state in order:
        ends = set(edges[state]) - {JobState.REMOVED}
        if state in way:
            following = way[way.index(JobState(state)) + 1 :]
            ends -= set(following[1:])
            if state != JobState.TRIAL:
                ends -= {JobState.CONFIRMED, JobState.SELF_REVERTED}
        elif state == JobState.DEFERRED:
            ends -= {*way[2:], JobState.CONFIRMED, JobState.SELF_REVERTED}
        shown[state] = frozenset(ends)
    return shown
