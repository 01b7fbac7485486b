"""Which configuration values a device takes (SPEC.md section 6), as the C core has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.mqtt.codec.names import ConfigKey

_CONFIG_RANGES: dict[int, tuple[tuple[int, int], ...]] = {
    ConfigKey.HEARTBEAT_S: ((1, 86_400),),
    ConfigKey.WINDOW_S: ((1, 3_600),),
    ConfigKey.PERIOD_MS: ((10, 3_600_000),),
    ConfigKey.ANOMALY_THRESHOLD: ((0, 2**31 - 1),),
    ConfigKey.ALARM: ((1, 64), (1, 64)),
    ConfigKey.MAINTENANCE_WINDOW: ((1, 127), (0, 1439), (1, 1440)),
    ConfigKey.PROBATION: ((0, 100_000), (0, 86_400)),
    ConfigKey.SAMPLE_EVERY: ((0, 1_000_000),),
    ConfigKey.CHUNK_RATE: ((0, 6_000),),
    ConfigKey.SKETCH_S: ((1, 86_400),),
}


def config_errors(config: Mapping[int, Any]) -> list[int]:
    """Keys of a configuration that are unknown or whose value is out of range, rising."""
    return sorted(key for key, value in config.items() if not _is_config_valid(key, value))


def _is_config_valid(key: int, value: Any) -> bool:
    ranges = _CONFIG_RANGES.get(key)
    if ranges is None:
        return False
    if len(ranges) == 1:
        numbers = [value]
    elif isinstance(value, list | tuple) and len(value) == len(ranges):
        numbers = list(value)
    else:
        return False
    fits = all(
        isinstance(number, int) and not isinstance(number, bool) and least <= number <= most
        for number, (least, most) in zip(numbers, ranges, strict=True)
    )
    return fits and (key != ConfigKey.ALARM or numbers[0] <= numbers[1])
