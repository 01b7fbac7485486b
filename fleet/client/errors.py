"""What a call can end with besides an answer."""

from collections.abc import Sequence
from typing import Any


class ApiError(Exception):
    """The API refused: `code` as in the problem document, `status` the HTTP status.

    errors: one object a field that was wrong. problem: the whole document, for what else it says
    (`allowed`, `state`, ...).
    """

    def __init__(
        self, status: int, code: str, detail: str, errors: Sequence[Any] = (), problem: Any = None
    ) -> None:
        super().__init__(f"HTTP {status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = list(errors)
        self.problem: dict[str, Any] = problem if isinstance(problem, dict) else {}


class Unreachable(Exception):
    """No answer came: nobody listens, a name or certificate is wrong, or it took too long."""


class NotReached(Exception):
    """A condition did not come true in time; the text says what was last seen."""
