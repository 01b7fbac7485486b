"""How deep the core's own stack gets: frames summed along every chain of calls.

gcc writes a `.ci` file per object: each function with its frame, and who calls whom. Calls through a pointer
go to the port (`struct fc_hal`, `struct fc_engine`) and are the end of a chain, as are calls into the C
library: what they use is the port's, and is measured by painting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_NODE = re.compile(r'^node: \{ title: "([^"]+)" label: "((?:[^"\\]|\\.)*)"', re.MULTILINE)
_EDGE = re.compile(r'^edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', re.MULTILINE)
_FRAME = re.compile(r"(\d+) bytes \(([a-z,]+)\)")
INDIRECT = "__indirect_call"


class CallGraphError(Exception):
    """The bound cannot be given: `code` is `recursion`, `dynamic` (a frame of unknown size) or `unknown`."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


@dataclass(frozen=True)
class CallGraph:
    """frames: bytes by function; calls: who each one calls; foreign: what is called and has no frame here."""

    frames: dict[str, int]
    calls: dict[str, frozenset[str]]
    foreign: frozenset[str]

    @classmethod
    def read(cls, files: Iterable[Path]) -> CallGraph:
        """Join the `.ci` files of one program. Raises CallGraphError `dynamic`."""
        frames: dict[str, int] = {}
        calls: dict[str, set[str]] = {}
        for path in files:
            text = path.read_text()
            for title, label in _NODE.findall(text):
                if frame := _FRAME.search(label):
                    if frame[2] != "static":
                        raise CallGraphError("dynamic", f"{_short(title)} has a frame that is {frame[2]}")
                    frames[_short(title)] = int(frame[1])
            for source, target in _EDGE.findall(text):
                calls.setdefault(_short(source), set()).add(_short(target))
        called = {target for targets in calls.values() for target in targets}
        joined = {name: frozenset(targets) for name, targets in calls.items()}
        return cls(frames, joined, frozenset(called - frames.keys() - {INDIRECT}))

    def deepest(self, entries: Sequence[str]) -> list[tuple[str, int]]:
        """The chain of calls from one of `entries` that uses most stack: (function, frame), outermost first.

        Raises CallGraphError `recursion` when functions call each other in a circle, `unknown` for an entry
        that is no function of the program.
        """
        best: dict[str, tuple[int, str]] = {}
        open_now: list[str] = []

        def visit(name: str) -> int:
            if name in open_now:
                circle = " -> ".join([*open_now[open_now.index(name) :], name])
                raise CallGraphError("recursion", circle)
            if name not in self.frames:
                return 0
            if name not in best:
                open_now.append(name)
                below = max(((visit(callee), callee) for callee in self.calls.get(name, ())), default=(0, ""))
                open_now.pop()
                best[name] = self.frames[name] + below[0], below[1]
            return best[name][0]

        for entry in entries:
            if entry not in self.frames:
                raise CallGraphError("unknown", f"{entry} is no function of the program")
            visit(entry)
        name = max(entries, key=lambda entry: best[entry][0])
        chain = []
        while name in best:
            chain.append((name, self.frames[name]))
            name = best[name][1]
        return chain


def _short(title: str) -> str:
    """`file.c:function` of a static function, whose title has the whole path before it."""
    return title.rsplit("/", 1)[-1]
