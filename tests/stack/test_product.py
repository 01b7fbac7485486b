"""How the stack starts the product's own processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.stack import product
from fleet.stack.paths import RunDir
from fleet.stack.tls import ensure_tls

ENV = {"FLEET_WEB_URL": "https://127.0.0.1:8443", "FLEET_CONSOLE_URL": "http://127.0.0.1:8080"}


@pytest.mark.parametrize(
    ("environ", "pool"),
    [({}, "1"), ({"FLEET_DB_POOL": ""}, "1"), ({"FLEET_DB_POOL": "0"}, "0"), ({"FLEET_DB_POOL": "1"}, "1")],
)
def test_the_web_server_alone_has_a_pool_of_connections_unless_it_is_turned_off(
    tmp_path: Path, environ: dict[str, str], pool: str
) -> None:
    run = RunDir(tmp_path).ensure()
    found = {spec.name: spec.env for spec in product.specs(run, ENV, ensure_tls(run), environ=environ)}
    assert found["web"]["FLEET_DB_POOL"] == pool
    assert {found[name]["FLEET_DB_POOL"] for name in ("worker", "beat", "gateway")} == {"0"}
