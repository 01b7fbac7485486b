"""What can go wrong while the private stack starts, runs or stops."""

from __future__ import annotations


class StackError(Exception):
    """A part of the stack cannot do its work; `code` is stable, the text says what to do.

    Codes: `locked`, `port_taken`, `binary_missing`, `identity`, `state`, `child_failed`, `not_ready`,
    `unreachable`, `setting`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ChildFailed(StackError):
    """A child process ended or never became ready; `log_tail` holds its last log lines."""

    def __init__(self, code: str, name: str, reason: str, *, log_path: str, log_tail: str) -> None:
        text = f"{name}: {reason}\n  log: {log_path}"
        if log_tail:
            text += "\n" + "\n".join(f"  | {line}" for line in log_tail.splitlines())
        super().__init__(code, text)
        self.name = name
        self.reason = reason
        self.log_tail = log_tail
