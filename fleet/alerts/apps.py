"""Application configuration of `fleet.alerts`."""

from django.apps import AppConfig


class AlertsConfig(AppConfig):
    """Rules over stored telemetry, the alerts they open, and how people hear of them."""

    name = "fleet.alerts"
    label = "alerts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Let webhooks hear of what happens in `ota`."""
        from fleet.alerts import outbox
        from ota import announcing

        announcing.register(outbox.tell_of)
