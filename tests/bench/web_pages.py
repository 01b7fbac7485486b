"""The pages and REST lists that `tests.bench.web` asks, with the names of `web_rows.fill` in their paths."""

from __future__ import annotations

from typing import Final

PAGES: Final = {
    "overview": "/",
    "devices": "/devices",
    "devices, third page": "/devices?after=sc-000100",
    "devices, by class and presence": "/devices?class=host-a&presence=online",
    "devices, by id": "/devices?find=sc-0000",
    "devices, by part of an id": "/devices?find=99999",
    "devices, that run a version": "/devices?run={run}",
    "devices, that run nothing": "/devices?run=none",
    "devices, by query": "/devices?q=class%3D%3Dhost-a%3Bonline%3D%3Dtrue",
    "devices, by version in a query": "/devices?q=slot.0.version%3D%3D1.0.3",
    "device": "/devices/{device}",
    "groups": "/groups",
    "group, listed": "/groups/listed",
    "group, by query": "/groups/asked",
    "models": "/models",
    "model": "/models/scale",
    "version": "/models/scale/1.0.3",
    "versions compared": "/models/scale/compare?versions=1.0.3,1.0.4",
    "rollouts": "/rollouts",
    "rollout under way": "/rollouts/{running}",
    "rollout under way, live part": "/rollouts/{running}/live",
    "rollout that halted": "/rollouts/{halted}",
    "rollout that halted, live part": "/rollouts/{halted}/live",
    "rollout that ended": "/rollouts/{ended}",
    "its jobs": "/rollouts/{ended}/jobs",
    "jobs under way": "/rollouts/{running}/jobs?wave=3",
    "jobs that failed": "/rollouts/{running}/jobs?state=failed",
    "jobs of a code": "/rollouts/{running}/jobs?code=flash_io",
    "telemetry, a day": "/telemetry?metric=accuracy&range=24h",
    "anomalies": "/telemetry/anomalies",
    "drift": "/telemetry/drift",
    "alerts": "/alerts",
    "alerts, by query": "/alerts?q=class%3D%3Dhost-a",
    "audit": "/audit",
    "search": "/search?find=sc-0500",
}
REST: Final = {
    "GET /devices": "/devices?limit=50",
    "GET /devices, total": "/devices?limit=50&total=true",
    "GET /devices, q": "/devices?limit=50&q=class%3D%3Dhost-a",
    "GET /devices/{id}": "/devices/{device}",
    "GET /groups": "/groups",
    "GET /groups/{name}": "/groups/asked",
    "GET /groups/{name}/members": "/groups/listed/members?limit=50",
    "GET /models/{model}/versions": "/models/scale/versions",
    "GET /models/{model}/compare": "/models/scale/compare?versions=1.0.3,1.0.4",
    "GET /rollouts": "/rollouts?limit=50",
    "GET /rollouts/{id}": "/rollouts/{running}",
    "GET /rollouts/{id}, halted": "/rollouts/{halted}",
    "GET /rollouts/{id}/jobs": "/rollouts/{running}/jobs?limit=50",
    "GET /rollouts/{id}/jobs, failed": "/rollouts/{running}/jobs?limit=50&state=failed",
    "GET /rollouts/{id}/jobs, a code": "/rollouts/{running}/jobs?limit=50&code=flash_io",
    "GET /rollouts/{id}/events": "/rollouts/{running}/events?limit=50",
    "GET /rollouts/{id}/explain": "/rollouts/{running}/explain/{device}",
    "GET /alerts": "/alerts",
    "GET /audit": "/audit?limit=50",
}
WEIGHED: Final = ("/", "/devices", "/rollouts/{running}")
"""Pages whose first load is weighed."""


def everything(names: dict[str, str], only: str = "") -> dict[str, str]:
    """Title to path of all that is asked; REST below its prefix. only: those whose title has this text."""
    rest = {title: f"/api/v1{path}" for title, path in REST.items()}
    both = {**PAGES, **rest}
    return {title: path.format(**names) for title, path in both.items() if only in title}
