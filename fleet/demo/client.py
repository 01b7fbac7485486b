"""A small client of the REST API, as any other system would use it."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")


class ApiError(Exception):
    """The API refused: `code` as in the problem document, `status` the HTTP status."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"HTTP {status} {code}: {detail}")
        self.status = status
        self.code = code


class NotReached(Exception):
    """A condition did not come true in time; the text says what was last seen."""


class Client:
    """Calls `url`/api/v1 with a bearer token."""

    def __init__(self, url: str, token: str, *, timeout_s: float = 30) -> None:
        self._http = httpx.Client(
            base_url=f"{url}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout_s,
            trust_env=False,
        )

    def get(self, path: str, **params: Any) -> Any:
        """GET; the parsed body. Raises ApiError."""
        return self._body(self._http.get(path, params=params))

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """POST with a fresh Idempotency-Key; the parsed body. Raises ApiError."""
        return self._body(
            self._http.post(path, json=body or {}, headers={"Idempotency-Key": uuid.uuid4().hex})
        )

    def upload(
        self, model: str, file: tuple[str, bytes], meta: dict[str, Any], evaluation: Path | None = None
    ) -> Any:
        """Upload a version; returns it as stored. Raises ApiError."""
        parts: dict[str, Any] = {"file": (file[0], file[1], "application/octet-stream")}
        if evaluation is not None:
            parts["evaluation"] = (evaluation.name, evaluation.read_bytes(), "application/octet-stream")
        return self._body(
            self._http.post(f"/models/{model}/versions", files=parts, data={"meta": json.dumps(meta)})
        )

    def every(self, path: str, **params: Any) -> Iterator[dict[str, Any]]:
        """All items of a list, page by page."""
        cursor = None
        while True:
            page = self.get(path, limit=200, **params, **({"cursor": cursor} if cursor else {}))
            yield from page["items"]
            cursor = page.get("next")
            if not cursor:
                return

    @staticmethod
    def _body(answer: httpx.Response) -> Any:
        if answer.is_success:
            return answer.json() if answer.content else None
        try:
            problem = answer.json()
        except ValueError:
            problem = {}
        raise ApiError(
            answer.status_code, str(problem.get("code", "")), str(problem.get("detail", answer.text[:200]))
        )


def wait_for(
    what: str, look: Callable[[], tuple[T | None, str]], *, deadline_s: float, every_s: float = 0.5
) -> T:
    """Look until it gives a value. Raises NotReached with what was last seen."""
    end = time.monotonic() + deadline_s
    while True:
        value, seen = look()
        if value is not None:
            return value
        if time.monotonic() > end:
            raise NotReached(f"{what}: not within {deadline_s:.0f} s; last seen: {seen}")
        time.sleep(every_s)
