"""The committed OpenAPI document is what the code serves, and its pages need no other origin."""

import json
from pathlib import Path

import pytest
from django.core.management import call_command
from django.test import Client

COMMITTED = Path(__file__).resolve().parents[2] / "fleet" / "api" / "openapi.json"
REGENERATE = (
    "manage.py export_openapi_schema --api fleet.api.routes.api --indent 1 --sorted "
    "--output fleet/api/openapi.json"
)


def test_the_committed_document_is_the_served_one(client: Client, tmp_path: Path) -> None:
    served = client.get("/api/v1/openapi.json").json()
    assert served == json.loads(COMMITTED.read_text()), f"if the change is meant: {REGENERATE}"
    options = REGENERATE.split()[2:-1]
    call_command("export_openapi_schema", *options, str(tmp_path / "made.json"))
    assert (tmp_path / "made.json").read_text() == COMMITTED.read_text()


def test_every_operation_has_a_name_of_its_own_and_a_sentence(client: Client) -> None:
    served = client.get("/api/v1/openapi.json").json()
    operations = [entry for path in served["paths"].values() for entry in path.values()]
    names = [entry["operationId"] for entry in operations]
    assert len(set(names)) == len(names)
    assert all(entry["summary"] for entry in operations)
    assert served["openapi"].startswith("3.1")


@pytest.mark.django_db
def test_the_documentation_page_loads_only_from_here(client: Client) -> None:
    page = client.get("/api/v1/docs").content.decode()
    assert "swagger-ui-bundle.js" in page
    assert "://" not in page.replace("https://github.com", "").replace("http://testserver", "")
