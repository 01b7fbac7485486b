"""Application configuration of `ota`."""

from django.apps import AppConfig


class OtaConfig(AppConfig):
    """A model's journey to a device."""

    name = "ota"
    label = "ota"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Load the Celery application, so that `shared_task` and `delay_on_commit` find it, and tell queries
        how digests and operators are called, and which devices a rollout has.
        """
        import fleet.celery  # noqa: F401
        from fleet.devices import selection
        from fleet.telemetry.cohorts import register_arms
        from fleet.telemetry.selection import register_members
        from ota import inventory, membership
        from ota.operators import BUILTIN_CODES

        selection.register_names(runs=inventory.run_names, operators=lambda: BUILTIN_CODES)
        register_members(membership.device_ids)
        register_arms(membership.arms)
