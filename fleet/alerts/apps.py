"""Application configuration of `fleet.alerts`."""

from django.apps import AppConfig


class AlertsConfig(AppConfig):
    """Rules over stored telemetry, the alerts they open, and how people hear of them."""

    name = "fleet.alerts"
    label = "alerts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Let webhooks hear of what is announced in the packages below."""
        from fleet import announcing
        from fleet.alerts import gathering, outbox

        announcing.register(announcing.Teller(outbox.is_asked, outbox.tell_of, gathering.keep))
