"""URLs of the console: one address a page, one a fragment, one a verb."""

from django.urls import path

from fleet.console.views import (
    devices,
    evidence,
    groups,
    live,
    models,
    overview,
    plan,
    sign_in,
    telemetry,
    theme,
    uploads,
    verbs,
    versions,
)

app_name = "console"

urlpatterns = [
    path("", overview.overview, name="overview"),
    path("login", sign_in.login, name="login"),
    path("logout", sign_in.logout, name="logout"),
    path("theme", theme.choose, name="theme"),
    path("devices", devices.device_list, name="devices"),
    path("devices/<str:device_id>", devices.device, name="device"),
    path("devices/<str:device_id>/quarantine", devices.set_quarantine, name="device-quarantine"),
    path("groups", groups.group_list, name="groups"),
    path("new-group", groups.new, name="group-new"),
    path("groups/<str:name>", groups.group, name="group"),
    path("groups/<str:name>/edit", groups.edit, name="group-edit"),
    path("groups/<str:name>/members", groups.members, name="group-members"),
    path("groups/<str:name>/delete", groups.delete, name="group-delete"),
    path("models", models.model_list, name="models"),
    path("upload", uploads.upload, name="upload"),
    path("models/<str:name>", models.model, name="model"),
    path("models/<str:name>/<str:version>", versions.version, name="version"),
    path("models/<str:name>/<str:version>/live", versions.fragment, name="version-live"),
    path("models/<str:name>/<str:version>/acknowledge", versions.acknowledge, name="version-acknowledge"),
    path("models/<str:name>/<str:version>/release", versions.release, name="version-release"),
    path("models/<str:name>/<str:version>/inspect", versions.inspect, name="version-inspect"),
    path("models/<str:name>/<str:version>/yank", versions.yank, name="version-yank"),
    path("rollouts", live.rollout_list, name="rollouts"),
    path("rollouts/new", plan.new, name="rollout-new"),
    path("rollouts/<uuid:rollout_id>", live.rollout, name="rollout"),
    path("rollouts/<uuid:rollout_id>/live", live.fragment, name="rollout-live"),
    path("rollouts/<uuid:rollout_id>/jobs", live.jobs, name="rollout-jobs"),
    path("rollouts/<uuid:rollout_id>/evidence/<uuid:evidence_id>", evidence.evidence, name="evidence"),
    path("rollouts/<uuid:rollout_id>/edit", plan.edit, name="rollout-edit"),
    path("rollouts/<uuid:rollout_id>/<slug:verb>", verbs.confirm, name="rollout-verb"),
    path("telemetry", telemetry.explorer, name="telemetry"),
]
