"""The OpenAPI document tells all of the API of jobs, and what it tells is true."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from service.app import create_app
from service.settings import Environment
from service.testing.settings import IsolatedSettings
from tests.api.conftest import Auth
from tests.api.shapes import assert_problem
from tests.api.test_policies import PUBLIC, TABLE
from tests.conftest import TEST_SECRET

ROOT = Path(__file__).parents[2]
OPERATIONS = {
    ("/jobs", "post"): {200, 201, 400, 401, 403, 409, 413, 415, 422, 503},
    ("/jobs/batch", "post"): {200, 201, 400, 401, 403, 409, 413, 415, 422, 503},
    ("/jobs/chain", "post"): {200, 201, 400, 401, 403, 409, 413, 415, 422, 503},
    ("/jobs/{job_id}/parents", "get"): {200, 401, 403, 404, 422, 503},
    ("/jobs/{job_id}/children", "get"): {200, 401, 403, 404, 422, 503},
    ("/jobs/{job_id}", "get"): {200, 401, 403, 404, 422, 503},
    ("/jobs/{job_id}/explain", "get"): {200, 401, 403, 404, 422, 503},
    ("/jobs/{job_id}/events", "get"): {200, 204, 401, 403, 404, 422, 503},
    ("/admin/jobs", "get"): {200, 401, 403, 422, 503},
    ("/jobs", "get"): {200, 401, 403, 422, 503},
    ("/admin/jobs/stats", "get"): {200, 401, 403, 503},
    ("/admin/jobs/rates", "get"): {200, 401, 403, 422, 503},
    ("/admin/jobs/process", "post"): {200, 401, 403, 422, 503},
    ("/admin/jobs/{job_id}", "get"): {200, 401, 403, 404, 422, 503},
    ("/admin/jobs/{job_id}/logs", "get"): {200, 401, 403, 404, 422, 503},
    ("/admin/jobs/{job_id}", "delete"): {204, 401, 403, 404, 409, 422, 503},
    ("/admin/jobs/{job_id}/retry", "post"): {200, 401, 403, 404, 409, 413, 415, 422, 503},
    ("/admin/jobs/{job_id}", "patch"): {200, 401, 403, 404, 409, 412, 413, 415, 422, 503},
    ("/admin/jobs/{job_id}/run-now", "post"): {200, 401, 403, 404, 409, 422, 503},
    ("/admin/jobs/{job_id}/clone", "post"): {201, 401, 403, 404, 422, 503},
    ("/jobs/{job_id}", "patch"): {200, 401, 403, 404, 409, 412, 413, 415, 422, 503},
    ("/jobs/{job_id}/run-now", "post"): {200, 401, 403, 404, 409, 422, 503},
    ("/jobs/{job_id}/events/{name}", "post"): {
        200,
        201,
        401,
        403,
        404,
        409,
        413,
        415,
        422,
        503,
    },
    ("/jobs/{job_id}/cancel", "post"): {200, 202, 401, 403, 404, 409, 422, 503},
    ("/admin/jobs/{job_id}/cancel", "post"): {200, 202, 401, 403, 404, 409, 422, 503},
}
"""Every route of jobs, and every status that it can answer with (500 aside)."""

MINE = pytest.mark.parametrize(("path", "method"), OPERATIONS)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    settings = IsolatedSettings(environment=Environment.TEST, jwt_secret=SecretStr(TEST_SECRET))
    return create_app(settings, dsn="postgresql://nobody@nowhere/none").openapi()


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
    assert {int(status) for status in operation["responses"]} - {400, 408, 429, 500} == OPERATIONS[
        path, method
    ] - {400}
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


def test_a_credential_that_cannot_be_checked_is_a_503(
    document: dict[str, Any],
) -> None:
    silent = [
        (path, method)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation["security"] and "503" not in operation["responses"]
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


def test_every_answer_is_described(document: dict[str, Any]) -> None:
    words = {
        (operation["operationId"], status): answer["description"]
        for operations in document["paths"].values()
        for operation in operations.values()
        for status, answer in operation["responses"].items()
    }
    bare = [where for where, said in words.items() if said in ("", "Successful Response")]
    assert bare == []


async def test_the_examples_are_accepted(
    client: httpx.AsyncClient, document: dict[str, Any], auth: Auth
) -> None:
    for path, name in (("/jobs", "JobIn"), ("/jobs/batch", "BatchIn")):
        schema = document["components"]["schemas"][name]
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        named = [example["value"] for example in body.get("examples", {}).values()]
        for example in [*schema["examples"], *named]:
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


async def test_a_refused_method_is_answered_with_the_allowed_ones(
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


def every(part: Any) -> Iterator[dict[str, Any]]:
    """Each object in the document."""
    if isinstance(part, dict):
        yield part
    for item in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from every(item)


def test_examples_have_every_required_member(
    document: dict[str, Any],
) -> None:
    schemas = document["components"]["schemas"]
    for name, schema in schemas.items():
        for example in schema.get("examples", ()):
            assert set(schema.get("required", ())) <= set(example), name
            assert set(example) <= set(schema["properties"]), name
    assert schemas["JobOut"]["examples"][0]["result"] is None
    assert schemas["JobOut"]["examples"][0]["status"] == "PENDING"


def test_a_request_shows_times_retries_and_idempotency(document: dict[str, Any]) -> None:
    operation = document["paths"]["/jobs"]["post"]
    named = operation["requestBody"]["content"]["application/json"]["examples"].values()
    shown = {member for example in named for member in example["value"]}
    assert {"job_type", "payload", "run_at", "backoff", "unique_key"} <= shown
    assert any("Idempotency-Key" in example["description"] for example in named)


def test_generators_make_nothing_required_that_may_be_left_out(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        for member in schema.get("properties", {}).values():
            assert "default" not in member
    priority = document["components"]["schemas"]["JobIn"]["properties"]["priority"]
    assert priority["description"].endswith("Default: 2.")


def test_no_word_of_a_schema_is_our_own(document: dict[str, Any]) -> None:
    for part in every({name: document[name] for name in ("paths", "components")}):
        assert not {"ge", "le", "gt", "lt"} & set(part), part
        if part.get("type") == "integer":
            bounds = [part[name] for name in ("minimum", "maximum") if name in part]
            assert all(type(bound) is int for bound in bounds), part
    id_ = document["paths"]["/jobs/{job_id}"]["get"]["parameters"][0]["schema"]
    assert id_["maximum"] == 2**63 - 1
    entry = document["components"]["schemas"]["ErrorEntry"]["properties"]
    for name in ("at", "started_at"):
        assert {"type": "string", "format": "date-time"} in entry[name]["anyOf"]


def test_each_operation_names_its_own_permission_or_that_it_needs_none(
    document: dict[str, Any],
) -> None:
    assert document["servers"] == [{"url": "/"}]
    for (method, path), policy in TABLE.items():
        if path not in document["paths"] or method == "HEAD":
            continue
        operation = document["paths"][path][method.lower()]
        if policy == PUBLIC:
            assert operation["security"] == []
            continue
        example = operation["responses"]["403"]["content"]["application/problem+json"]["example"]
        assert policy in example["detail"]
        assert f"`{policy}`" in operation["description"]


def test_links_lead_to_operations_and_parameters_that_there_are(document: dict[str, Any]) -> None:
    parameters = {
        operation["operationId"]: {parameter["name"] for parameter in operation["parameters"]}
        for operations in document["paths"].values()
        for operation in operations.values()
        if "parameters" in operation
    }
    links = [link for part in every(document) for link in part.get("links", {}).values()]
    assert len(links) > 10
    for link in links:
        assert set(link["parameters"]) <= parameters[link["operationId"]]
