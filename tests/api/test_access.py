"""Every operation of the API x {no token, wrong scope, viewer, operator, approver, admin}."""

import json
from typing import Any

import pytest
from django.test import Client

from fleet.accounts.models import Role
from fleet.accounts.scopes import ALL_SCOPES, ROLE_SCOPES
from fleet.api.routes import api
from tests.api.conftest import Caller

pytestmark = pytest.mark.django_db
ID = "00000000-0000-7000-8000-000000000000"

SCOPES: dict[str, tuple[str, ...]] = {
    "POST /enrol": (),
    "GET /devices": ("devices:read",),
    "GET /devices/{device_id}": ("devices:read",),
    "GET /devices/{device_id}/events": ("devices:read",),
    "GET /devices/{device_id}/telemetry": ("telemetry:read",),
    "GET /devices/{device_id}/telemetry/last": ("telemetry:read",),
    "POST /devices:config": ("devices:write",),
    "PATCH /devices/{device_id}": ("devices:write",),
    "POST /devices:import": ("devices:write",),
    "POST /devices/{device_id}/quarantine": ("devices:write",),
    "POST /devices/{device_id}/release": ("devices:write",),
    "POST /devices/{device_id}/retire": ("devices:admin",),
    "GET /groups": ("devices:read",),
    "POST /groups": ("devices:write",),
    "POST /groups:preview": ("devices:read",),
    "GET /groups/{name}": ("devices:read",),
    "PATCH /groups/{name}": ("devices:write",),
    "DELETE /groups/{name}": ("devices:write",),
    "GET /groups/{name}/members": ("devices:read",),
    "PUT /groups/{name}/members": ("devices:write",),
    "GET /device-classes": ("devices:read",),
    "GET /device-classes/{name}": ("devices:read",),
    "POST /device-classes": ("devices:admin",),
    "PATCH /device-classes/{name}": ("devices:admin",),
    "GET /models": ("models:read",),
    "POST /models": ("models:write",),
    "GET /models/{model}": ("models:read",),
    "GET /models/{model}/versions": ("models:read",),
    "POST /models/{model}/versions": ("models:write",),
    "GET /models/{model}/versions/{version}": ("models:read",),
    "POST /models/{model}/versions/{version}/acknowledge": ("models:write",),
    "POST /models/{model}/versions/{version}/preflight": ("models:write",),
    "POST /models/{model}/versions/{version}/release": ("models:sign",),
    "POST /models/{model}/versions/{version}/yank": ("models:sign",),
    "GET /models/{model}/versions/{version}/report": ("models:read",),
    "GET /models/{model}/versions/{version}/provenance": ("models:read",),
    "GET /models/{model}/compare": ("models:read",),
    "GET /models/{model}/aliases": ("models:read",),
    "GET /models/{model}/aliases/{name}": ("models:read",),
    "PUT /models/{model}/aliases/{name}": ("models:write",),
    "GET /rollouts": ("rollouts:read",),
    "POST /rollouts": ("rollouts:write",),
    "POST /rollouts:preview": ("rollouts:read",),
    "GET /rollouts/{rollout_id}": ("rollouts:read",),
    "POST /rollouts/{rollout_id}/submit": ("rollouts:write",),
    "PATCH /rollouts/{rollout_id}": ("rollouts:write",),
    "DELETE /rollouts/{rollout_id}": ("rollouts:write",),
    "GET /rollouts/{rollout_id}/waves": ("rollouts:read",),
    "POST /rollouts/{rollout_id}/waves/{n}/override": ("rollouts:approve",),
    "POST /rollouts/{rollout_id}/preflight": ("rollouts:write",),
    "POST /rollouts/{rollout_id}/approve": ("rollouts:approve",),
    "POST /rollouts/{rollout_id}/reject": ("rollouts:approve",),
    "POST /rollouts/{rollout_id}/start": ("rollouts:write",),
    "POST /rollouts/{rollout_id}/pause": ("rollouts:write",),
    "POST /rollouts/{rollout_id}/resume": ("rollouts:write", "rollouts:approve"),
    "POST /rollouts/{rollout_id}/abort": ("rollouts:write",),
    "POST /rollouts/{rollout_id}/rollback": ("rollouts:write",),
    "POST /rollouts/{rollout_id}/cancel": ("rollouts:write",),
    "POST /rollouts/{rollout_id}/retry-failed": ("rollouts:write",),
    "POST /rollouts/{rollout_id}/create-revert": ("rollouts:write",),
    "GET /rollouts/{rollout_id}/jobs": ("rollouts:read",),
    "GET /rollouts/{rollout_id}/events": ("rollouts:read",),
    "GET /rollouts/{rollout_id}/gate": ("rollouts:read",),
    "GET /rollouts/{rollout_id}/gate/{evidence_id}": ("rollouts:read",),
    "GET /rollouts/{rollout_id}/explain/{device_id}": ("rollouts:read",),
    "POST /telemetry:query": ("telemetry:read",),
    "GET /operations": ("rollouts:read", "telemetry:read"),
    "GET /operations/{operation_id}": ("rollouts:read", "telemetry:read"),
    "POST /operations/{operation_id}/cancel": ("rollouts:read", "telemetry:read"),
    "GET /telemetry/exports/{export_id}": ("telemetry:read",),
    "GET /telemetry/metrics": ("telemetry:read",),
    "GET /telemetry/drift": ("telemetry:read",),
    "POST /telemetry/labels": ("models:write",),
    "GET /telemetry/labels": ("telemetry:read",),
    "GET /telemetry/accuracy": ("telemetry:read",),
    "GET /telemetry/latency": ("telemetry:read",),
    "GET /telemetry/anomalies/top": ("telemetry:read",),
    "GET /telemetry/compare": ("telemetry:read",),
    "GET /telemetry/export": ("telemetry:read",),
    "GET /telemetry/coverage": ("telemetry:read",),
    "GET /telemetry/dead-letters": ("telemetry:read",),
    "GET /alerts": ("telemetry:read",),
    "GET /alerts/{alert_id}": ("telemetry:read",),
    "POST /alerts/{alert_id}/ack": ("devices:write",),
    "POST /alerts/{alert_id}/resolve": ("devices:write",),
    "GET /alert-rules": ("telemetry:read",),
    "GET /alert-rules/{name}": ("telemetry:read",),
    "GET /silences": ("telemetry:read",),
    "POST /alert-rules": ("devices:write",),
    "PATCH /alert-rules/{name}": ("devices:write",),
    "DELETE /alert-rules/{name}": ("devices:write",),
    "POST /silences": ("devices:write",),
    "POST /silences/{silence_id}/end": ("devices:write",),
    "GET /webhooks": ("webhooks:write",),
    "POST /webhooks": ("webhooks:write",),
    "GET /webhooks/{webhook_id}": ("webhooks:write",),
    "DELETE /webhooks/{webhook_id}": ("webhooks:write",),
    "PATCH /webhooks/{webhook_id}": ("webhooks:write",),
    "POST /webhooks/{webhook_id}/rotate": ("webhooks:write",),
    "POST /webhooks/{webhook_id}/test": ("webhooks:write",),
    "GET /webhooks/{webhook_id}/deliveries": ("webhooks:write",),
    "POST /webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": ("webhooks:write",),
    "GET /alert-emails": ("webhooks:write",),
    "GET /alert-emails/deliveries": ("webhooks:write",),
    "POST /alert-emails/deliveries/{delivery_id}/redeliver": ("webhooks:write",),
    "GET /tokens": ("users:admin",),
    "POST /tokens": ("users:admin",),
    "GET /tokens/{public_id}": ("users:admin",),
    "PATCH /tokens/{public_id}": ("users:admin",),
    "POST /tokens/{public_id}/rotate": ("users:admin",),
    "DELETE /tokens/{public_id}": ("users:admin",),
    "GET /quotas": ("devices:read", "models:read", "rollouts:read", "telemetry:read"),
    "GET /users": ("users:admin",),
    "POST /users": ("users:admin",),
    "GET /users/{name}": ("users:admin",),
    "PATCH /users/{name}": ("users:admin",),
    "GET /invitations": ("users:admin",),
    "DELETE /invitations/{invitation_id}": ("users:admin",),
    "GET /audit": ("audit:read",),
    "GET /audit/verify": ("audit:read",),
    "GET /audit/export": ("audit:read",),
    "GET /stream": ("devices:read", "models:read", "rollouts:read", "telemetry:read"),
    "GET /signing-keys": ("keys:admin",),
    "POST /signing-keys/{kid}/revoke": ("keys:admin",),
    "GET /trust": ("keys:admin",),
}
"""Operation -> scopes of which one lets a caller in; () needs no token."""


IDS = (
    "rollout_id",
    "evidence_id",
    "operation_id",
    "export_id",
    "alert_id",
    "silence_id",
    "webhook_id",
    "delivery_id",
    "invitation_id",
)


def operations() -> list[str]:
    paths = api.get_openapi_schema()["paths"]
    return [f"{method.upper()} {path.removeprefix('/api/v1')}" for path in paths for method in paths[path]]


def ask(call: Caller, operation: str, **headers: str) -> Any:
    method, path = operation.split()
    for name in IDS:
        path = path.replace(f"{{{name}}}", ID)
    path = path.replace("{n}", "1")
    for name in ("device_id", "name", "model", "version", "public_id", "kid"):
        path = path.replace(f"{{{name}}}", "none")
    body: Any = {} if method in ("POST", "PATCH") and not path.endswith("/versions") else None
    return call(method, path, body, IDEMPOTENCY_KEY="k", **headers)


def test_the_table_names_every_operation_and_no_other() -> None:
    assert sorted(operations()) == sorted(SCOPES)


def test_the_document_says_which_operations_need_a_token() -> None:
    paths = json.loads(json.dumps(api.get_openapi_schema()))["paths"]
    for operation, scopes in SCOPES.items():
        method, path = operation.split()
        assert bool(paths[f"/api/v1{path}"][method.lower()].get("security")) == bool(scopes), operation


def test_nobody_gets_in_without_a_token(client: Client, call: Caller) -> None:
    for operation, scopes in SCOPES.items():
        answer = ask(call, operation, AUTHORIZATION="")
        assert (answer.status_code == 401) == bool(scopes), (operation, answer.json())
        assert answer.json()["code"] == ("token_missing" if scopes else "validation")


@pytest.mark.parametrize("role", [str(role) for role in Role])
def test_a_role_reaches_exactly_what_its_scopes_name(call: Caller, role: str) -> None:
    caller = call.as_role(role)
    for operation, scopes in SCOPES.items():
        answer = ask(caller, operation)
        may = not scopes or bool(ROLE_SCOPES[role] & set(scopes))
        assert (answer.status_code != 403) == may, (operation, answer.json())
        if not may:
            assert (answer.json()["code"], answer.json()["scope"]) == ("scope_missing", scopes[0])


def test_a_token_with_every_scope_but_the_right_one_is_refused(call: Caller) -> None:
    for scopes in set(SCOPES.values()) - {()}:
        caller = call.as_role("admin", ALL_SCOPES - set(scopes))
        for operation in (name for name, needed in SCOPES.items() if needed == scopes):
            assert ask(caller, operation).status_code == 403, operation


def test_a_token_loses_what_its_owner_loses(call: Caller) -> None:
    owner = call.token.owner
    owner.role = "viewer"
    owner.save()
    assert ask(call, "GET /devices").status_code == 200
    assert ask(call, "GET /tokens").json()["code"] == "scope_missing"
    owner.is_active = False
    owner.save()
    assert ask(call, "GET /devices").json()["code"] == "token_invalid"
