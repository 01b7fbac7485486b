"""One HTTP connection to the API: bearer token, problems as exceptions, patience with limits."""

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from fleet.client.errors import ApiError, Unreachable

PAGE: Final = 200
_TRIES: Final = 4
_LATER: Final = (429, 503)
"""Answers that mean: not done, ask again later."""
_MOST_WAIT_S: Final = 30.0


class Client:
    """Calls `url`/api/v1 with a bearer token.

    A 429 or 503 is asked again up to three times, after the time that it names: neither has done anything. No
    other call is repeated. verify: False, or a file of certificate authorities for an https `url`.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = 30, verify: bool | str = True) -> None:
        import ssl

        trusted = ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout_s,
            trust_env=False,
            verify=trusted,
        )

    def get(self, path: str, **params: Any) -> Any:
        """GET; the parsed body. Raises ApiError and Unreachable, as every call here."""
        return self.call("GET", path, params=params)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """POST with a fresh Idempotency-Key; the parsed body."""
        return self.call("POST", path, json=body or {}, headers={"Idempotency-Key": uuid.uuid4().hex})

    def delete(self, path: str) -> Any:
        """DELETE; None."""
        return self.call("DELETE", path)

    def upload(
        self, model: str, file: tuple[str, bytes], meta: dict[str, Any], evaluation: Path | None = None
    ) -> Any:
        """Upload a version; returns it as stored."""
        parts: dict[str, Any] = {"file": (file[0], file[1], "application/octet-stream")}
        if evaluation is not None:
            parts["evaluation"] = (evaluation.name, evaluation.read_bytes(), "application/octet-stream")
        return self.call("POST", f"/models/{model}/versions", files=parts, data={"meta": json.dumps(meta)})

    def every(self, path: str, **params: Any) -> Iterator[dict[str, Any]]:
        """All items of a list, page by page."""
        cursor = None
        while True:
            page = self.get(path, limit=PAGE, **params, **({"cursor": cursor} if cursor else {}))
            yield from page["items"]
            cursor = page.get("next")
            if not cursor:
                return

    def call(self, method: str, path: str, **given: Any) -> Any:
        """One request; the parsed body, None when there is none."""
        for attempt in range(1, _TRIES + 1):
            try:
                answer = self._http.request(method, path, **given)
            except httpx.HTTPError as error:
                raise Unreachable(f"{self._http.base_url}: {str(error) or type(error).__name__}") from error
            if answer.status_code not in _LATER or attempt == _TRIES:
                return _body(answer)
            time.sleep(_pause_s(answer, attempt))
        raise AssertionError("the last attempt returns or raises")


def _pause_s(answer: httpx.Response, attempt: int) -> float:
    said = answer.headers.get("Retry-After", "")
    wanted = float(said) if said.isdigit() else 0.5 * 2**attempt
    return min(_MOST_WAIT_S, wanted)


def _body(answer: httpx.Response) -> Any:
    if answer.is_success:
        return answer.json() if answer.content else None
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    raise ApiError(
        answer.status_code,
        str(problem.get("code", "")),
        str(problem.get("detail", answer.text[:200])),
        problem.get("errors") or (),
        problem,
    )
