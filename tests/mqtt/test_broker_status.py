"""What the broker says of itself, and who of us holds a name, as the console shows them."""

from pathlib import Path
from typing import Any

from fleet.mqtt import broker_status
from fleet.mqtt.client import BackendClient
from tests.gateway.conftest import broker as broker
from tests.stack.services import Broker


def test_figures_come_from_the_broker_and_names_from_the_locks_that_are_held(
    broker: Broker, settings: Any
) -> None:
    users = Path(settings.MQTT["users_file"])
    with BackendClient("gateway").connect() as client:
        found = broker_status.read(timeout_s=10)
        by_role = {one.role: one for one in broker_status.names(users)}
        assert by_role["gateway"].held == (client.name,)
        assert by_role["gateway"].total == 8
        assert by_role["doctor"].held == (), "who looks has gone"
    assert (found.code, found.text) == ("", "")
    assert found.figures["version"].startswith("mosquitto version ")
    assert (found.number("clients/connected") or 0) >= 0
    assert found.number("version") is None
    assert all(not one.held for one in broker_status.names(users))


def test_a_broker_that_is_away_is_an_answer(broker: Broker, settings: Any) -> None:
    settings.MQTT["port"] = 1
    found = broker_status.read(timeout_s=0.5)
    assert (found.code, found.figures) == ("broker_unreachable", {})
