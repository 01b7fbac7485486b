"""Application configuration of `fleet.telemetry`."""

from django.apps import AppConfig


class TelemetryConfig(AppConfig):
    """Ingest, storage and queries of what devices measure."""

    name = "fleet.telemetry"
    label = "telemetry"
    default_auto_field = "django.db.models.BigAutoField"
