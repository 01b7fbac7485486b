"""Application configuration of `ota`."""

from django.apps import AppConfig


class OtaConfig(AppConfig):
    """A model's journey to a device."""

    name = "ota"
    label = "ota"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Load the Celery application, so that `shared_task` and `delay_on_commit` find it."""
        import fleet.celery  # noqa: F401
