"""The API under load, and under requests that its own document allows or forbids. Slow."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cli.serve.conftest import Client

pytestmark = pytest.mark.slow


def test_many_clients_are_all_answered(client: Client) -> None:
    """16 clients, 20 questions each: every one is answered, or told to come again."""

    def ask(who: int) -> list[int]:
        return [
            client.post("/api/query", {"image_id": 1 + (who * 7 + n) % 80, "to": "+Glasses"}).status for n in range(20)
        ]

    ask(0)
    started = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        statuses = [status for told in pool.map(ask, range(16)) for status in told]
    seconds = time.monotonic() - started
    assert set(statuses) <= {200, 503} and statuses.count(200) >= 300
    print(f"{len(statuses) / seconds:.0f} requests a second")
    assert client.get("/healthz").status == 200
    assert b"rgunit_requests_inside 0" in client.get("/metrics").body


def test_the_document_holds_for_whatever_is_asked(client: Client) -> None:
    """Schemathesis: no answer is a server's error, none has a status or a body that the document does not have.

    What the document cannot say (an edit's syntax, one of image_id and image) may be refused all the same.
    """
    schemathesis = pytest.importorskip("schemathesis", reason="no schemathesis here: `make setup` installs it")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"{client.url}/openapi.json")
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in ("/api/blind", "/api/map.html", "/api/duplicates"):  # minutes of work each
            continue

        @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def holds(case) -> None:  # type: ignore[no-untyped-def]
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        holds()
