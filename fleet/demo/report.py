"""What the demo prints: one line a step while it runs, a table at the end, a JSON summary for machines."""

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@dataclasses.dataclass
class Step:
    """One step of the story. facts: what was seen, in the order it is printed."""

    key: str
    title: str
    is_ok: bool = False
    seconds: float = 0.0
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""


class Report:
    """Collects steps. A step that raises is told as failed, and the story goes on with the next if it can."""

    def __init__(self, *, is_quiet: bool = False) -> None:
        self.steps: list[Step] = []
        self.began = time.monotonic()
        self._is_quiet = is_quiet

    def say(self, text: str) -> None:
        """One line of progress with the seconds since the start."""
        if not self._is_quiet:
            print(f"{time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    @contextmanager
    def step(self, key: str, title: str) -> Iterator[Step]:
        """Time a step; ok when the block ends without an exception."""
        step = Step(key, title)
        self.steps.append(step)
        self.say(f"({key}) {title}")
        began = time.monotonic()
        try:
            yield step
            step.is_ok = True
        except Exception as error:
            step.error = f"{type(error).__name__}: {error}"
            raise
        finally:
            step.seconds = time.monotonic() - began
            mark = "ok    " if step.is_ok else "FAILED"
            self.say(f"({key}) {mark} {', '.join(f'{k} {v}' for k, v in step.facts.items())}{step.error}")

    @property
    def is_ok(self) -> bool:
        """True when every step ended as told."""
        return bool(self.steps) and all(step.is_ok for step in self.steps)

    def table(self) -> str:
        """Steps with result, duration and facts, as text."""
        width = max((len(step.title) for step in self.steps), default=0)
        lines = []
        for step in self.steps:
            facts = ", ".join(f"{key} {value}" for key, value in step.facts.items()) or step.error
            mark = "ok" if step.is_ok else "FAILED"
            lines.append(f"({step.key})  {step.title:<{width}}  {mark:<6} {step.seconds:6.1f} s  {facts}")
        return "\n".join(lines)

    def write(self, path: Path, **more: Any) -> None:
        """Write the JSON summary."""
        summary = {
            "ok": self.is_ok,
            "seconds": round(time.monotonic() - self.began, 1),
            "steps": [dataclasses.asdict(step) for step in self.steps],
            **more,
        }
        path.write_text(json.dumps(summary, indent=1, default=str) + "\n")
