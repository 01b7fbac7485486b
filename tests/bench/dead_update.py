"""An update that kills every device: how many ran it before Wilson's gate stopped the rollout.

Event by event: devices are offered while fewer than `in_flight` are under way, enter their trial after a
download, fail some time later, and the gate looks at every report with running trials counted as healthy.
After the halt nothing is offered; devices in trial are beyond recall, a device still downloading is not.
"""

from __future__ import annotations

import heapq

import numpy as np

from ota.gates.wilson import halts


def exposed(in_flight: int, limit: float, rng: np.random.Generator, *, group: int = 1_000) -> tuple[int, int]:
    """(devices that failed before the halt, devices that ever ran it)."""
    events: list[tuple[float, int, str]] = []
    offered = entered = failed = 0

    def offer(now: float) -> None:
        nonlocal offered
        if offered < group:
            offered += 1
            heapq.heappush(events, (now + rng.uniform(30, 120), offered, "trial"))

    for _ in range(min(in_flight, group)):
        offer(0.0)
    while events:
        now, device, what = heapq.heappop(events)
        if what == "trial":
            entered += 1
            heapq.heappush(events, (now + rng.uniform(5, 300), device, "fail"))
            continue
        failed += 1
        if halts(failed, entered, limit):
            return failed, entered
        offer(now)
    return failed, entered


def simulate(in_flight: int, *, runs: int, seed: int, limit: float = 0.10) -> dict[str, float]:
    """Median and highest number of devices failed before the halt, and of devices that ever ran it."""
    rng = np.random.default_rng(seed)
    found = np.array([exposed(in_flight, limit, rng) for _ in range(runs)])
    return {
        "in_flight": in_flight,
        "failed_median": float(np.median(found[:, 0])),
        "failed_most": float(found[:, 0].max()),
        "ran_it_median": float(np.median(found[:, 1])),
        "ran_it_most": float(found[:, 1].max()),
        "allowed": 5 + in_flight,
        "within": float((found[:, 1] <= 5 + in_flight).mean()),
    }
