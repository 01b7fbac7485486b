"""The REST API, version 1: one router per noun."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI

from fleet.api import errors
from fleet.api.asked import refuse_unknown
from fleet.api.guard import guarded
from fleet.api.idempotency import take_key
from fleet.api.retirements import RETIREMENTS, Retirements, announce
from fleet.api.routes import (
    accounts,
    alerts,
    aliases,
    audit,
    comparison,
    dead_letters,
    device_classes,
    devices,
    emails,
    evidence,
    exports,
    groups,
    keys,
    labels,
    models,
    operations,
    previews,
    quotas,
    rollouts,
    stream,
    telemetry,
    users,
    version_comparison,
    version_origin,
    waves,
    webhooks,
)
from fleet.api.sorting import documented


class Api(NinjaAPI):
    """An API in which unknown paths, wrong methods and oversized bodies answer with problem documents too,
    unknown parameters are refused, changes take an Idempotency-Key, and what will go says so.
    """

    def __init__(self, *args: Any, retirements: Retirements = RETIREMENTS, **kwargs: Any) -> None:
        """retirements: the operations that will be removed."""
        self._retirements = retirements
        self._is_prepared = False
        super().__init__(*args, **kwargs)

    def get_openapi_schema(self, *args: Any, **kwargs: Any) -> Any:
        """The document, in which every operation may answer with a problem."""
        self._prepare()
        found = super().get_openapi_schema(*args, **kwargs)
        found["components"]["schemas"]["Problem"] = errors.SCHEMA
        content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for methods in found["paths"].values():
            for operation in methods.values():
                operation["parameters"] = [documented(one) for one in operation["parameters"]]
                told = {str(status): answer for status, answer in operation["responses"].items()}
                operation["responses"] = told | {"default": {"description": "A problem", "content": content}}
        return found

    def _prepare(self) -> None:
        """Give every operation what all have; once, before the first is served or told of."""
        if self._is_prepared:
            return
        self._is_prepared = True
        unknown = set(self._retirements)
        for router in self._get_bound_routers():
            for path, served in router.path_operations.items():
                for operation in served.operations:
                    refuse_unknown(operation)
                    take_key(operation)
                    unknown -= announce(operation, f"{router.prefix}{path}", self._retirements)
        if unknown:
            raise ValueError(f"there is no operation {sorted(unknown)[0]} that could be retired")

    def _get_urls(self) -> list[Any]:
        self._prepare()
        patterns = super()._get_urls()
        for pattern in patterns:
            pattern.callback = guarded(pattern.callback)  # type: ignore[arg-type]
        return [*patterns, re_path(r"^.*$", unknown_path)]


@csrf_exempt
def unknown_path(request: HttpRequest) -> HttpResponse:
    """404 for a path that nobody serves."""
    return errors.problem(
        request, 404, "not_found", "there is nothing at this path; openapi.json lists what is"
    )


api = Api(
    title="TinyFleet",
    version="1",
    urls_namespace="api",
    description="Fleet OTA model updates and telemetry. Errors are problem documents with a stable `code`.",
)
errors.install(api)
api.add_router("", devices.router)
api.add_router("", device_classes.router)
api.add_router("", groups.router)
api.add_router("/models", models.router)
api.add_router("/models", version_comparison.router)
api.add_router("/models", version_origin.router)
api.add_router("/models", aliases.router)
api.add_router("/rollouts", rollouts.router)
api.add_router("/rollouts", waves.router)
api.add_router("/rollouts", evidence.router)
api.add_router("", operations.router)
api.add_router("", previews.router)
api.add_router("", telemetry.router)
api.add_router("", dead_letters.router)
api.add_router("", comparison.router)
api.add_router("", exports.router)
api.add_router("", labels.router)
api.add_router("", alerts.router)
api.add_router("", webhooks.router)
api.add_router("", emails.router)
api.add_router("", accounts.router)
api.add_router("", users.router)
api.add_router("", quotas.router)
api.add_router("", audit.router)
api.add_router("", keys.router)
api.add_router("", stream.router)
