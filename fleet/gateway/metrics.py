"""What the gateway counts (Prometheus)."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

MESSAGES: Final = Counter("fleet_gateway_messages_total", "Uplinks taken from the broker", ["kind"])
REFUSED: Final = Counter("fleet_gateway_refused_total", "Uplinks refused, by code", ["kind", "code"])
REPORTS: Final = Counter(
    "fleet_gateway_reports_total", "Reported documents by what became of them", ["result"]
)
WINDOWS: Final = Counter(
    "fleet_gateway_windows_total", "Telemetry windows by what became of them", ["result"]
)
SAMPLES: Final = Counter("fleet_gateway_samples_total", "Sampled inferences and sketches stored", ["kind"])
EVENTS: Final = Counter("fleet_gateway_events_total", "Device events by what became of them", ["result"])
COMMIT_S: Final = Histogram(
    "fleet_gateway_batch_seconds",
    "Time from taking a batch to its commit",
    ["pump"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
RETRIES: Final = Counter(
    "fleet_gateway_retries_total", "Batches put back because the database failed", ["pump"]
)
WAITING: Final = Gauge("fleet_gateway_waiting_messages", "Messages taken and not yet committed", ["pump"])
