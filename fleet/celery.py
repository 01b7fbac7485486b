"""The Celery application: queues, schedule and time limits. Tasks live in the `tasks` modules of `ota`,
`fleet.accounts`, `fleet.alerts`, `fleet.devices` and `fleet.telemetry`.

The database is the truth; a task is short, idempotent and safe to lose. Leases with a fencing counter plus
the beat schedule carry work on
after a killed worker, not `acks_late`.
"""

import os

from celery import Celery
from kombu import Queue  # type: ignore[attr-defined]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")

QUEUES = ("default", "inspect", "staging", "delivery", "rollouts")

app = Celery("fleet")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.update(
    task_queues=[Queue(name) for name in QUEUES],  # type: ignore[no-untyped-call]
    task_create_missing_queues=False,
    task_routes={
        "ota.inspect_version": {"queue": "inspect"},
        "ota.stage_manifest": {"queue": "staging"},
        "ota.ensure_staged": {"queue": "staging"},
        "ota.collect_chunks": {"queue": "staging"},
        "ota.publish_desired": {"queue": "delivery"},
        "ota.tick_rollout": {"queue": "rollouts"},
    },
    task_ignore_result=True,
    task_soft_time_limit=50,
    task_time_limit=60,
    task_serializer="json",
    accept_content=["json"],
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 120},
    timezone="UTC",
    beat_schedule={
        "tick-rollouts": {"task": "ota.tick_rollouts", "schedule": 1.0, "options": {"expires": 2}},
        "reconcile": {"task": "ota.reconcile", "schedule": 5.0, "options": {"expires": 10}},
        "ensure-staged": {"task": "ota.ensure_staged", "schedule": 10.0, "options": {"expires": 20}},
        "collect-chunks": {"task": "ota.collect_chunks", "schedule": 3600.0, "options": {"expires": 600}},
        "telemetry-partitions": {
            "task": "telemetry.make_partitions",
            "schedule": 3600.0,
            "options": {"expires": 600},
        },
        "telemetry-compact": {"task": "telemetry.compact", "schedule": 60.0, "options": {"expires": 55}},
        "telemetry-labels": {"task": "telemetry.join_labels", "schedule": 60.0, "options": {"expires": 55}},
        "telemetry-drift": {"task": "telemetry.judge_drift", "schedule": 30.0, "options": {"expires": 25}},
        "fleet-samples": {"task": "ota.sample_fleet", "schedule": 300.0, "options": {"expires": 240}},
        "telemetry-gaps": {"task": "ota.repair_gaps", "schedule": 60.0, "options": {"expires": 55}},
        "telemetry-cool": {"task": "telemetry.cool", "schedule": 3600.0, "options": {"expires": 600}},
        "telemetry-exports": {"task": "telemetry.write_exports", "schedule": 5.0, "options": {"expires": 5}},
        "alerts": {"task": "alerts.evaluate", "schedule": 60.0, "options": {"expires": 55}},
        "alert-deliveries": {"task": "alerts.send", "schedule": 5.0, "options": {"expires": 5}},
        "alert-forget": {"task": "alerts.forget", "schedule": 600.0, "options": {"expires": 300}},
        "audit-seal": {"task": "accounts.seal_audit", "schedule": 60.0, "options": {"expires": 55}},
        "audit-prune": {"task": "accounts.prune_audit", "schedule": 3600.0, "options": {"expires": 600}},
        "audit-check": {"task": "accounts.check_audit", "schedule": 30.0, "options": {"expires": 25}},
        "alert-mail": {"task": "alerts.mail", "schedule": 10.0, "options": {"expires": 10}},
        "presence": {"task": "devices.mark_stale", "schedule": 30.0, "options": {"expires": 60}},
    },
)
app.autodiscover_tasks()
