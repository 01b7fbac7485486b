"""Every error as `application/problem+json` (RFC 9457) with a stable code; no internals."""

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import DataError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.multipartparser import MultiPartParserError
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from fleet.accounts.errors import AccountError
from fleet.accounts.tokens import TokenError
from fleet.alerts.errors import AlertError
from fleet.api.render import stamp
from fleet.devices.errors import DeviceError
from fleet.live.errors import LiveError
from fleet.long_answers import BusyError
from fleet.sealing import SealError
from fleet.telemetry.errors import TelemetryError
from ota.errors import OtaError
from ota.plan import PlanError

log = logging.getLogger(__name__)

STATUS = {
    400: "malformed_json idempotency_key_required limit cursor_mismatch query_syntax query_unknown_field "
    "unknown_metric unknown_kind kind_required budget_required agg_not_supported group_by_not_supported "
    "arms_required step_not_supported quantile_range range_invalid range_too_wide too_many_points "
    "format_unknown too_many_rows",
    401: "token_missing token_invalid token_expired",
    403: "scope_missing approver_is_author",
    404: "not_found token_unknown",
    405: "method",
    409: "illegal_transition immutable in_use duplicate overlap idempotency_in_progress token_used "
    "device_exists target_changed evidence_not_current approval_stale key_exists",
    410: "raw_expired",
    412: "stale",
    413: "too_large",
    415: "media_type",
    422: "validation address_refused idempotency_key_reused unknown_device unknown_class unknown_group "
    "group_query_invalid "
    "config_invalid alpha_split gate_unreachable empty_target no_baseline preflight_required io_contract "
    "label_unknown sample_expired sample_invalid source_unknown "
    "signature sequence expired trust unknown_action window_never_opens rollback_unavailable",
    428: "if_match_required",
    429: "rate_limited",
    500: "internal",
    503: "unavailable query_timeout passphrase_missing passphrase_wrong passphrase_weak key_unreadable "
    "keys_missing not_set_up contended",
}
"""Statuses of error codes (rest-api.md "Error codes"). 422: the content of a body was refused. 503: asking
again later, or after somebody mended the installation, can succeed.
"""
RETRY_AFTER_S = 5
ROLLUP = "/api/v1/telemetry:query"
"""Where what is no longer kept raw can still be asked for, in whole steps."""
_STATUS_OF = {code: status for status, codes in STATUS.items() for code in codes.split()}
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457. `code` is stable; what more there is depends on it.",
    "required": ["type", "title", "status", "code", "detail", "errors", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "message"],
                "properties": {
                    "pointer": {"type": "string"}, "code": {"type": "string"}, "message": {"type": "string"},
                },
            },
        },
        "request_id": {"type": "string"},
    },
}  # fmt: skip
"""What `problem` answers with, as OpenAPI tells it."""
_TITLES = {
    400: "Request not understood",
    401: "Not signed in",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Not possible in this state",
    410: "Gone",
    412: "Changed meanwhile",
    413: "Too large",
    415: "Unsupported media type",
    422: "Input refused",
    428: "Revision missing",
    429: "Too many requests",
    500: "Internal error",
    503: "Unavailable",
}


class ApiProblem(Exception):
    """An error this layer itself finds. `more` is added to the problem document."""

    def __init__(self, code: str, detail: str, **more: Any) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.more = more


def status_of(code: str) -> int:
    """HTTP status of an error code; 422 for codes about the content of a body."""
    return _STATUS_OF.get(code, 422)


def problem(
    request: HttpRequest,
    status: int,
    code: str,
    detail: str,
    errors: list[dict[str, Any]] | None = None,
    **more: Any,
) -> HttpResponse:
    """The problem document as an answer."""
    body = document(status, code, detail, errors)
    body |= {"request_id": getattr(request, "request_id", ""), **more}
    answer = JsonResponse(body, status=status, content_type="application/problem+json")
    if status == 503:
        answer["Retry-After"] = str(RETRY_AFTER_S)
    return answer


def document(
    status: int, code: str, detail: str, errors: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """What a problem document says, without the request that it answers."""
    title = _TITLES.get(status, "Error")
    told = {"type": f"/errors/{code}", "title": title, "status": status, "code": code, "detail": detail}
    return told | {"errors": errors or []}


def field_errors(
    found: Iterable[Any], *, skip: Callable[[tuple[Any, ...]], int] = lambda place: 0
) -> list[dict[str, Any]]:
    """pydantic's errors as entries of `errors`: pointer, code, message. skip: leading parts of a place that
    name no field.
    """
    return [
        {
            "pointer": "/" + "/".join(str(part) for part in item["loc"][skip(item["loc"]) :]),
            "code": item["type"],
            "message": item["msg"],
        }
        for item in found
    ]


def _about_field(error: Any) -> list[dict[str, Any]]:
    """The entry of `errors` for an error that names the field it is about."""
    field = getattr(error, "field", "")
    if not field:
        return []
    path = re.sub(r"\[(\d+)\]", r".\1", field)
    if isinstance(error, PlanError) and path.split(".")[0] not in ("plan", "target", "slot", "name"):
        path = f"plan.{path}"
    return [{"pointer": "/" + path.replace(".", "/"), "code": error.code, "message": error.text}]


def _more(error: Any) -> dict[str, Any]:
    """What an error knows beyond code and text. An empty `allowed` says something too."""
    more = {
        name: getattr(error, name, None)
        for name in ("state", "existing", "field", "least_step_s", "fix", "line", "nearest", "etag")
    }
    known = {name: value for name, value in more.items() if value}
    if getattr(error, "position", None) is not None:
        known["position"] = error.position
    if hasattr(error, "allowed"):
        known["allowed"] = error.allowed
    if getattr(error, "available_from", None) is not None:
        known |= {"available_from": stamp(error.available_from), "rollup": ROLLUP}
    return known


def install(api: NinjaAPI) -> None:
    """Register the handlers on an API."""

    @api.exception_handler(ApiProblem)
    def own(request: HttpRequest, error: ApiProblem) -> HttpResponse:
        return problem(request, status_of(error.code), error.code, error.detail, **error.more)

    @api.exception_handler(LiveError)
    def live(request: HttpRequest, error: LiveError) -> HttpResponse:
        return problem(request, status_of(error.code), error.code, error.text, **error.more)

    def coded(request: HttpRequest, error: Any) -> HttpResponse:
        return problem(
            request, status_of(error.code), error.code, error.text, _about_field(error), **_more(error)
        )

    own_errors = (OtaError, AccountError, TokenError, AlertError, DeviceError, TelemetryError, SealError)
    for kind in (*own_errors, BusyError):
        api.add_exception_handler(kind, coded)

    @api.exception_handler(ValidationError)
    def invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
        places = [item["loc"] for item in error.errors]
        if all(place[0] == "path" for place in places):
            return problem(request, 404, "not_found", "no such object: its id is not well-formed")
        found = field_errors(error.errors, skip=lambda place: 2 if place[0] == "body" else 1)
        detail = "; ".join(f"{item['pointer']}: {item['message']}" for item in found[:5])
        if ("query", "limit") in places:
            return problem(request, 400, "limit", detail, found)
        return problem(request, 422, "validation", detail, found)

    @api.exception_handler(Http404)
    def missing(request: HttpRequest, error: Http404) -> HttpResponse:
        return problem(request, 404, "not_found", str(error) or "no such object")

    @api.exception_handler(AuthenticationError)
    def unauthenticated(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
        return problem(
            request,
            401,
            "token_missing",
            "send Authorization: Bearer tfk_…; `manage.py tokens issue` makes one",
        )

    @api.exception_handler(HttpError)
    def http(request: HttpRequest, error: HttpError) -> HttpResponse:
        if error.status_code == 400:  # the only one that the framework itself raises
            return problem(request, 400, "malformed_json", "the body is not JSON")
        log.error("unexpected HttpError %s", error)
        return problem(request, 500, "internal", "an unexpected error; the log has it under this request id")

    @api.exception_handler(RequestDataTooBig)
    def too_big(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
        return problem(request, 413, "too_large", "the body is larger than is accepted here")

    @api.exception_handler(SuspiciousOperation)
    @api.exception_handler(MultiPartParserError)
    def malformed(request: HttpRequest, error: Exception) -> HttpResponse:
        return problem(request, 400, "malformed_json", "the form is not well-formed, or has too many parts")

    @api.exception_handler(DataError)
    @api.exception_handler(UnicodeEncodeError)
    def unstorable(request: HttpRequest, error: Exception) -> HttpResponse:
        log.warning("a value cannot be stored: %s", error)
        detail = "a text holds a character that cannot be stored, or a number is too large"
        return problem(request, 422, "validation", detail)

    @api.exception_handler(OperationalError)
    def database(request: HttpRequest, error: OperationalError) -> HttpResponse:
        log.error("database unavailable: %s", error)
        return problem(request, 503, "unavailable", "the database does not answer; nothing was changed")

    @api.exception_handler(Exception)
    def unexpected(request: HttpRequest, error: Exception) -> HttpResponse:
        log.exception("unexpected error in the API")
        return problem(request, 500, "internal", "an unexpected error; the log has it under this request id")
