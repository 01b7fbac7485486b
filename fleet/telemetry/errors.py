"""The one error hierarchy of `fleet.telemetry`: a stable code and a sentence for people."""

from datetime import datetime


class TelemetryError(Exception):
    """Telemetry was refused or could not be read.

    code: stable lower-case name shared with REST and dead letters.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class QueryError(TelemetryError):
    """A telemetry query was refused (HTTP 400, or 410 for `raw_expired`, 503 for `query_timeout` and
    `contended`).

    code: `unknown_metric, unknown_kind, kind_required, agg_not_supported, group_by_not_supported,
    arms_required, step_not_supported, quantile_range, range_invalid, range_too_wide, too_many_points,
    raw_expired, query_timeout, contended`, and of exports `format_unknown, too_many_rows`. least_step_s: with
    `too_many_points`, the least step that fits; with `raw_expired`, of whole steps that are kept longer.
    available_from: with `raw_expired`, since when there is what was asked for.
    """

    def __init__(
        self,
        code: str,
        text: str,
        *,
        least_step_s: int | None = None,
        available_from: datetime | None = None,
    ) -> None:
        super().__init__(code, text)
        self.least_step_s = least_step_s
        self.available_from = available_from


class ExportError(TelemetryError):
    """A large export cannot be moved to another state (HTTP 409 `illegal_transition`). state: where it is."""

    def __init__(self, code: str, text: str, *, state: str) -> None:
        super().__init__(code, text)
        self.state = state
        self.allowed: list[str] = []
