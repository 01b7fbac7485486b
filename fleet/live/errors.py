"""Why a stream is not opened."""

from typing import Any


class LiveError(Exception):
    """code: `validation`, `not_found`, `scope_missing`, `rate_limited` or `unavailable`. more: for the
    problem document.
    """

    def __init__(self, code: str, text: str, **more: Any) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.more = more
