import json
from collections.abc import AsyncIterator
from hashlib import sha256
from io import BytesIO

import pytest
from aiohttp import ClientSession, ClientTimeout
from yarl import URL

from tests.sandbox.app import App
from tests.sandbox.conftest import StartSandbox


@pytest.fixture
async def api(start: StartSandbox, http: ClientSession) -> AsyncIterator[ClientSession]:
    """A session that has a live access token."""
    sandbox = await start()
    tokens = await App(sandbox, http).authorized()
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    async with ClientSession(sandbox.url, headers=headers, timeout=ClientTimeout(total=10)) as session:
        yield session


async def test_without_a_token_the_challenge_has_no_error_and_with_a_dead_one_it_has(
    start: StartSandbox, http: ClientSession
) -> None:
    sandbox = await start()
    async with http.get(f"{sandbox.url}/api/me") as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="krebit"'
    for path in ("/api/me", "/api/there-is-no-such-thing"):
        headers = {"Authorization": "Bearer nobody"}
        async with http.get(f"{sandbox.url}{path}", headers=headers) as response:
            assert response.status == 401
            assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
    assert sandbox.counters["api_unauthorized"] == 3


async def test_me_tells_whose_grant_it_is(api: ClientSession) -> None:
    async with api.get("/api/me") as response:
        assert (await response.json())["organization"] == "sandbox"


async def test_following_link_or_cursor_gives_every_customer_once(api: ClientSession) -> None:
    seen: list[str] = []
    target: URL | None = URL("/api/customers?limit=25")
    while target is not None:
        async with api.get(target) as response:
            page = await response.json()
            target = URL(response.links["next"]["url"]).relative() if "next" in response.links else None
        assert (target is None) == (page["next_cursor"] is None)
        assert target is None or target.query["cursor"] == page["next_cursor"]
        seen += [customer["id"] for customer in page["data"]]
    assert len(seen) == len(set(seen)) == page["total"] == 57


@pytest.mark.parametrize("query", ["limit=101", "limit=-1", "limit=x", "cursor=!", "cursor=AAAA"])
async def test_a_faulty_page_is_a_bad_request(api: ClientSession, query: str) -> None:
    async with api.get(f"/api/customers?{query}") as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "bad_request"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/customers/cus_001", 200),
        ("/api/customers/cus_999", 404),
        ("/api/credit-reports/550000-1001", 200),
        ("/api/credit-reports/1", 404),
        ("/api/nothing", 404),
    ],
)
async def test_what_is_there_and_what_is_not_is_json(api: ClientSession, path: str, status: int) -> None:
    async with api.get(path) as response:
        assert (response.status, response.content_type) == (status, "application/json")


async def test_a_wrong_method_names_the_right_ones(api: ClientSession) -> None:
    async with api.delete("/api/invoices") as response:
        assert response.status == 405
        assert "POST" in response.headers["Allow"]


async def test_an_invoice_that_is_posted_is_there_afterwards(api: ClientSession) -> None:
    wanted = {"customer_id": "cus_007", "amount": 99.5}
    async with api.post("/api/invoices", json=wanted) as response:
        assert response.status == 201
        created = await response.json()
    async with api.get(response.headers["Location"]) as response:
        assert await response.json() == created
    assert created["amount"] == 99.5


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ("{", 400),
        ("[]", 400),
        ('{"customer_id": "cus_999", "amount": 1}', 422),
        ('{"customer_id": "cus_001", "amount": -1}', 422),
        ('{"customer_id": "cus_001", "amount": true}', 422),
    ],
)
async def test_an_invoice_that_makes_no_sense_is_refused(api: ClientSession, content: str, status: int) -> None:
    async with api.post("/api/invoices", data=content) as response:
        assert response.status == status


async def test_a_download_can_be_had_in_parts(api: ClientSession) -> None:
    async with api.get("/api/exports/2025.csv?rows=50") as response:
        whole = await response.read()
        etag = response.headers["ETag"]
        assert response.headers["Content-Length"] == str(len(whole))
    parts = {"bytes=0-9": whole[:10], "bytes=10-": whole[10:], "bytes=-5": whole[-5:], "bytes=5-99999": whole[5:]}
    for wanted, expected in parts.items():
        headers = {"Range": wanted, "If-Range": etag}
        async with api.get("/api/exports/2025.csv?rows=50", headers=headers) as response:
            assert response.status == 206
            assert await response.read() == expected


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Range": "bytes=999999-"}, 416),
        ({"Range": "bytes=5-2"}, 200),
        ({"Range": "bytes=-"}, 200),
        ({"Range": "lines=1-2"}, 200),
        ({"Range": "bytes=0-1", "If-Range": '"other"'}, 200),
    ],
)
async def test_a_range_that_cannot_be_met(api: ClientSession, headers: dict[str, str], status: int) -> None:
    async with api.get("/api/exports/2025.csv", headers=headers) as response:
        assert response.status == status


async def test_an_upload_is_echoed_by_length_and_digest(api: ClientSession) -> None:
    content = bytes(range(256)) * 10_000
    async with api.post("/api/uploads", data=BytesIO(content)) as response:
        assert await response.json() == {"length": len(content), "sha256": sha256(content).hexdigest()}


async def test_events_come_as_a_stream_that_ends_when_told(api: ClientSession) -> None:
    async with api.get("/api/events?count=3&interval_ms=1") as response:
        assert response.content_type == "text/event-stream"
        events = (await response.text()).rstrip("\n").split("\n\n")
    assert [event.splitlines()[0] for event in events] == ["id: 1", "id: 2", "id: 3"]
    assert json.loads(events[0].splitlines()[2].removeprefix("data: "))["status"] == "paid"


async def test_what_is_not_of_the_api_is_not_json(api: ClientSession) -> None:
    async with api.get("/nothing") as response:
        assert (response.status, response.content_type) == (404, "text/plain")


async def test_invoices_are_paged_like_customers(api: ClientSession) -> None:
    async with api.get("/api/invoices?limit=5") as response:
        assert len((await response.json())["data"]) == 5
