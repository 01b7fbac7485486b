"""URL map: the API below /api/, everything else is the console."""

from django.urls import include, path

from fleet.api.routes import api, health

urlpatterns = [
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
    path("api/v1/", api.urls),
    path("", include("fleet.console.urls")),
]
