"""Application configuration of `fleet.alerts`."""

from django.apps import AppConfig


class AlertsConfig(AppConfig):
    """Rules over stored telemetry, the alerts they open, and how people hear of them."""

    name = "fleet.alerts"
    label = "alerts"
    default_auto_field = "django.db.models.BigAutoField"
