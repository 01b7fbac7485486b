"""Enrolment over HTTPS, last of all: it leaves a device that never comes online."""

import json

import httpx
import pytest

from tests.e2e.conftest import Fleet

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack"), pytest.mark.timeout(600)]


def test_a_one_time_token_works_once(fleet: Fleet) -> None:
    out = fleet.info.run.root / "one.jsonl"
    assert fleet.stack.manage("devices", "enrol", "--class", "host-a", "--out", str(out), "once-only") == 0
    ticket = json.loads(out.read_text().splitlines()[0])
    body = {
        "token": ticket["token"],
        "device_id": "once-only",
        "class": "host-a",
        "chip": "host",
        "firmware": "1.0.0",
    }

    def claim(device_id: str) -> httpx.Response:
        return httpx.post(
            f"{fleet.info.web_url}/api/v1/enrol",
            json={**body, "device_id": device_id},
            verify=fleet.info.env["FLEET_WEB_CA"],
            timeout=20,
        )

    assert claim("once-only").status_code == 201
    second = claim("somebody-else")
    assert second.status_code in (409, 422)
    assert second.json()["code"] in ("token_used", "validation")
