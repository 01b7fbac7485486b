"""What limits this installation holds, and how much of each is used: only those that something enforces.

A limit of one request has nothing used. Of rates it is told what the asking token has used, this call
included; the streams of a caller are counted by each web process on its own, so no figure of one would be
true.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.conf import settings

from fleet.accounts import invitations
from fleet.accounts.models import ApiToken
from fleet.alerts import rules
from fleet.alerts.models import Rule
from fleet.api import limits, paging, rates
from fleet.devices import groups, membership, query, records
from fleet.devices.models import DeviceGroup
from fleet.live import hub, topics
from fleet.telemetry import catalogue, export, export_jobs, labels
from fleet.telemetry.export_models import EXPORT_LIVE, ExportJob


@dataclass(frozen=True)
class Quota:
    """One limit. unit: what is counted. per: `installation`, `request`, `minute` (of a token), `caller` or
    `process`. limit: None where the installation has set none. used: None where it is not counted. reset_s:
    seconds until `used` begins anew, of rates.
    """

    name: str
    unit: str
    per: str
    limit: int | None
    used: int | None = None
    reset_s: int | None = None


def told(token: ApiToken, *, now: datetime) -> list[dict[str, Any]]:
    """Every limit as REST answers: the asking token's rates first. Four small counts, one call of Redis."""
    return [asdict(quota) for quota in (*_rates(token), *_kept(now), *_of_requests())]


def _rates(token: ApiToken) -> Iterator[Quota]:
    used = rates.used(token.public_id)
    for policy, limit in settings.API_RATES.items():
        name = policy.replace("-", "_")
        count, reset_s = used.get(policy, (None, None))
        yield Quota(name, "calls", "minute", limit or None, count, reset_s)
    yield Quota("streams", "streams", "caller", settings.STREAMS_PER_CALLER)
    yield Quota("streams_of_all", "streams", "process", hub.MOST_VIEWERS)
    yield Quota("stream_topics", "topics", "request", topics.MOST)


def _kept(now: datetime) -> Iterator[Quota]:
    yield Quota("groups", "groups", "installation", groups.MAX_GROUPS, DeviceGroup.objects.count())
    yield Quota("alert_rules", "rules", "installation", rules.MAX_RULES, Rule.objects.count())
    waiting = invitations.waiting(now).count()
    yield Quota("invitations", "invitations", "installation", invitations.MAX_WAITING, waiting)
    writing = ExportJob.objects.filter(state__in=EXPORT_LIVE).count()
    yield Quota("large_exports", "exports", "installation", export_jobs.MOST_LIVE, writing)


def _of_requests() -> Iterator[Quota]:
    yield Quota("model_upload", "bytes", "request", settings.MODEL_UPLOAD_BYTES)
    yield Quota("evaluation_upload", "bytes", "request", settings.EVALUATION_UPLOAD_BYTES)
    yield Quota("json_body", "bytes", "request", limits.JSON_BODY_BYTES)
    yield Quota("list_body", "bytes", "request", records.MAX_BYTES)
    yield Quota("list_devices", "devices", "request", records.MAX_RECORDS)
    yield Quota("labels", "labels", "request", labels.MOST)
    yield Quota("page", "rows", "request", paging.MAX_LIMIT)
    yield Quota("query", "characters", "request", query.MAX_CHARS)
    yield Quota("query_dynamic_groups", "groups", "request", membership.MAX_DYNAMIC)
    yield Quota("telemetry_series", "series", "request", catalogue.MAX_SERIES)
    yield Quota("telemetry_points", "points a series", "request", catalogue.MAX_POINTS)
    yield Quota("telemetry_range", "seconds", "request", int(catalogue.MAX_RANGE.total_seconds()))
    yield Quota("export", "rows", "request", export.MOST_ROWS)
    yield Quota("large_export", "rows", "request", export_jobs.MOST_ROWS)
