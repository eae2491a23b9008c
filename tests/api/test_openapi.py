"""The OpenAPI document tells all of the API of jobs, and what it tells is true."""

import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.api.conftest import Auth
from tests.api.shapes import assert_problem

ROOT = Path(__file__).parents[2]
OPERATIONS = {
    ("/jobs", "post"): {200, 201, 400, 401, 403, 409, 413, 415, 422, 503},
    ("/jobs/batch", "post"): {200, 201, 400, 401, 403, 409, 413, 415, 422, 503},
    ("/jobs/{job_id}", "get"): {200, 401, 403, 404, 422, 503},
    ("/admin/jobs", "get"): {200, 401, 403, 422, 503},
    ("/jobs", "get"): {200, 401, 403, 422, 503},
    ("/admin/jobs/stats", "get"): {200, 401, 403, 503},
    ("/admin/jobs/process", "post"): {200, 401, 403, 422, 503},
    ("/admin/jobs/{job_id}", "get"): {200, 401, 403, 404, 422, 503},
    ("/admin/jobs/{job_id}", "delete"): {204, 401, 403, 404, 409, 422, 503},
    ("/admin/jobs/{job_id}/retry", "post"): {200, 401, 403, 404, 409, 422, 503},
    ("/admin/jobs/{job_id}/cancel", "post"): {200, 401, 403, 404, 409, 422, 503},
}
"""Every route of jobs, and every status that it can answer with (500 aside)."""

MINE = pytest.mark.parametrize(("path", "method"), OPERATIONS)


@pytest.fixture
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def test_the_version_is_the_one_that_the_project_declares(document: dict[str, Any]) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert document["info"]["version"] == declared["project"]["version"]


def test_every_route_of_jobs_is_known_here(document: dict[str, Any]) -> None:
    found = {
        (path, method)
        for path, operations in document["paths"].items()
        for method in operations
        if path.startswith(("/jobs", "/admin/jobs"))
    }
    assert found == set(OPERATIONS)


@MINE
def test_an_operation_is_described(document: dict[str, Any], path: str, method: str) -> None:
    operation = document["paths"][path][method]
    assert operation["summary"]
    assert operation["description"]
    assert operation["tags"] == (["Jobs"] if path.startswith("/jobs") else ["Admin"])
    assert operation["security"]
    assert {int(status) for status in operation["responses"]} - {408, 429, 500} == OPERATIONS[
        path, method
    ]
    for status, response in operation["responses"].items():
        assert response["description"]
        if int(status) >= 400:
            assert "application/problem+json" in response["content"], status
            assert response["content"]["application/problem+json"]["example"]["status"] == int(
                status
            )
    for parameter in operation.get("parameters", ()):
        assert parameter.get("description"), parameter["name"]


def test_operation_ids_are_names_of_their_own(document: dict[str, Any]) -> None:
    named = [
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
    ]
    assert len(set(named)) == len(named)
    assert [name for name in named if not name.isidentifier() or "_" in name] == []


def test_whoever_needs_a_credential_is_told_of_a_database_that_cannot_answer(
    document: dict[str, Any],
) -> None:
    silent = [
        (path, method)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "security" in operation and "503" not in operation["responses"]
    ]
    assert silent == []


def test_every_field_is_described_and_every_body_has_an_example(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in ("JobIn", "JobOut", "JobDetail", "BatchIn", "BatchOut", "StatsOut", "ProcessOut"):
        assert schemas[name]["examples"], name
        for field, schema in schemas[name]["properties"].items():
            assert schema.get("description"), (name, field)
    for name in ("JobIn", "BatchIn"):
        assert schemas[name]["additionalProperties"] is False


async def test_the_examples_are_accepted(
    client: httpx.AsyncClient, document: dict[str, Any], auth: Auth
) -> None:
    for path, name in (("/jobs", "JobIn"), ("/jobs/batch", "BatchIn")):
        for example in document["components"]["schemas"][name]["examples"]:
            answer = await client.post(path, json=example, headers=auth("service"))
            assert answer.status_code in (200, 201), answer.text


@MINE
async def test_a_route_answers_401_without_and_403_with_the_wrong_credential(
    client: httpx.AsyncClient, auth: Auth, path: str, method: str
) -> None:
    url = path.replace("{job_id}", "1")
    refused = await client.request(method, url)
    assert_problem(refused, 401)
    assert refused.headers["www-authenticate"].startswith("Bearer")
    refused = await client.request(method, url, headers=auth("user"))
    assert_problem(refused, 403)
    if method != "get":
        assert_problem(await client.request(method, url, headers=auth("viewer")), 403)


async def test_a_refused_method_is_told_which_ones_there_are(
    client: httpx.AsyncClient, document: dict[str, Any]
) -> None:
    for path, operations in document["paths"].items():
        url = path.replace("{job_id}", "1").replace("{reminder_id}", "1").replace("{prefix}", "p")
        allowed = {method.upper() for method in operations}
        if path.startswith(("/health", "/metrics")):
            allowed.add("HEAD")
        for method in ("OPTIONS", "QUERY"):
            refused = await client.request(method, url)
            assert refused.status_code == 405, (method, path)
            assert refused.headers["allow"] == ", ".join(sorted(allowed))
    assert (await client.post("/docs")).headers["allow"] == "GET, HEAD"
