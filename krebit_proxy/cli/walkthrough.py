"""`krebit-proxy demo --once`: runs every step that a person would take, and reports whether it worked."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from typing import Any, Final

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout

from krebit_proxy import USER_AGENT
from krebit_proxy.cli import terminal
from krebit_proxy.config import Settings
from krebit_proxy.errors import ProxyError
from krebit_proxy.program import Proxy
from krebit_proxy.sandbox import Order, Sandbox
from krebit_proxy.sandbox.visitor import Visitor

_PATIENCE: Final = 10.0  # seconds for one step
_UPLOAD: Final = bytes(range(256)) * 4096  # 1 MiB
# One path answers 401 although the token is good, and the token endpoint renews nothing.
_ONE_PATH_REFUSED: Final = Order.of(
    {"unauthorized_path": "/api/credit-reports/**", "token_endpoint": "limited", "retry_after": 1}
)
_WELL_AGAIN: Final = Order.of({"unauthorized_path": "", "token_endpoint": "ok"})

Step = Callable[[], Awaitable[str]]


class StepFailedError(Exception):
    """A step failed. The text says what happened instead."""


class Walkthrough:
    """Sandbox and proxy in one process, with an HTTP client in place of a person with a browser and curl."""

    def __init__(self, sandbox: Sandbox, settings: Settings) -> None:
        self._sandbox = sandbox
        self._settings = settings
        self._origin = settings.redirect_uri.removesuffix("/setup/callback")
        self._proxy: Proxy | None = None
        self._session = ClientSession(headers={"User-Agent": USER_AGENT}, timeout=ClientTimeout(total=_PATIENCE))

    async def close(self) -> None:
        await self._session.close()
        if self._proxy is not None:
            await self._proxy.stop()

    async def run(self) -> bool:
        """Runs every step and prints its result. Returns whether all worked."""
        steps: dict[str, Step] = {
            "the proxy starts": self._start,
            "a call before setup gets a clear error": self._call_too_early,
            "setup: you press Allow, the grant arrives": self._set_up,
            "a call without authentication": self._call,
            "an upload of 1 MiB arrives intact": self._upload,
            "the token expires, the proxy renews it": self._expire,
            "the token is revoked, a POST is sent again": self._revoke,
            "one path answers 401, all others work": self._suspect,
            "the proxy restarts and keeps its grant": self._restart,
            "the status page says that all is well": self._status,
        }
        return all([await self._take(title, step) for title, step in steps.items()])

    async def _take(self, title: str, step: Step) -> bool:
        try:
            figure = await asyncio.wait_for(step(), 2 * _PATIENCE)
        except (StepFailedError, ClientError, TimeoutError, ProxyError, OSError, ValueError) as error:
            terminal.tick(title, held=False, hint=str(error) or type(error).__name__)
            return False
        terminal.tick(f"{title:<46}  {figure}")
        return True

    async def _start(self) -> str:
        begun = time.perf_counter()
        proxy = Proxy(self._settings)
        await proxy.start()
        self._proxy = proxy
        return f"{1000 * (time.perf_counter() - begun):.0f} ms"

    async def _call_too_early(self) -> str:
        async with self._session.get(f"{self._origin}/api/me") as response:
            problem = await response.json(content_type=None)
        _expect(response, 503)
        code = problem.get("code")
        if code != "setup_required":
            raise StepFailedError(f"the code was {code}")
        return f"503 {code}"

    async def _set_up(self) -> str:
        async with Visitor() as visitor:
            back = await visitor.consent(f"{self._origin}/setup")
            status, address, _ = await visitor.open(back)
        if status != 200 or address != f"{self._origin}/setup/done":
            raise StepFailedError(f"the browser ended on {address.partition('?')[0]} with status {status}")
        return "one code, exchanged once"

    async def _call(self) -> str:
        begun = time.perf_counter()
        organization = (await self._get("/api/me")).get("organization")
        milliseconds = 1000 * (time.perf_counter() - begun)
        if organization != self._settings.organization:
            raise StepFailedError("the data belongs to another organization")
        return f"200 in {milliseconds:.1f} ms"

    async def _upload(self) -> str:
        async with self._session.post(f"{self._origin}/api/uploads", data=BytesIO(_UPLOAD)) as response:
            _expect(response, 201)
            echo = await response.json()
        if echo != {"length": len(_UPLOAD), "sha256": sha256(_UPLOAD).hexdigest()}:
            raise StepFailedError("the upload arrived damaged")
        return "the SHA-256 matches"

    async def _expire(self) -> str:
        counters = self._sandbox.counters
        before = counters["refreshes"]
        await asyncio.sleep(self._sandbox.faults.token_lifetime + 0.1)
        await self._get("/api/me")
        if counters["refreshes"] == before:
            raise StepFailedError("the call succeeded without a renewal")
        return f"200, tokens last {self._sandbox.faults.token_lifetime:g} s here"

    async def _revoke(self) -> str:
        await self._renew_for_long()
        await self._get("/api/me")  # the proxy would first try a young token again if the API never accepted it
        counters = self._sandbox.counters
        before = counters.copy()
        self._sandbox.order(Order(revoke="access"))
        invoice = {"customer_id": "cus_001", "amount": 1250}
        async with self._session.post(f"{self._origin}/api/invoices", json=invoice) as response:
            _expect(response, 201)
        grown = {name: counters[name] - before[name] for name in ("api_unauthorized", "refreshes", "invoices_created")}
        if grown != {"api_unauthorized": 1, "refreshes": 1, "invoices_created": 1}:
            raise StepFailedError(f"expected one of each: {json.dumps(grown)}")
        return "one 401, one renewal, one invoice"

    async def _suspect(self) -> str:
        """One path refuses a good token while no renewal is possible. A call to another path clears the suspicion."""
        refused = f"{self._origin}/api/credit-reports/550000-1001"
        self._sandbox.order(_ONE_PATH_REFUSED)
        try:
            async with self._session.get(refused) as response:
                _expect(response, 503)
            await self._expect_ready(ready=False)
            await self._get("/api/me")
            await self._expect_ready(ready=True)
        finally:
            self._sandbox.order(_WELL_AGAIN)
        async with self._session.get(refused) as response:
            _expect(response, 200)
        await self._expect_ready(ready=True)
        return "suspected, cleared by another call"

    async def _expect_ready(self, *, ready: bool) -> None:
        """Raises StepFailedError unless /readyz and the status page show the token as ready, or else as suspected."""
        async with self._session.get(f"{self._origin}/readyz") as response:
            _expect(response, 200 if ready else 503)
        status = await self._get("/")
        if status.get("suspected") is not (not ready):
            raise StepFailedError(f"the status says suspected: {status.get('suspected')}")

    async def _renew_for_long(self) -> None:
        """Waits for a long-lived token, so that no renewal for age disturbs the count of the next step."""
        self._sandbox.order(Order(token_lifetime=3600))
        soon = datetime.now(UTC) + timedelta(minutes=1)
        async with asyncio.timeout(_PATIENCE):
            expiry = soon - timedelta(minutes=1)
            while expiry < soon:
                await asyncio.sleep(0.02)
                expiry = await self._expiry()

    async def _expiry(self) -> datetime:
        return datetime.fromisoformat((await self._get("/"))["expires_at"])

    async def _restart(self) -> str:
        if self._proxy is None:
            raise StepFailedError("the proxy never started")
        await self._proxy.stop()
        await self._start()
        await self._get("/api/me")
        if self._sandbox.counters["authorizations"] != 1:
            raise StepFailedError("the proxy asked for a new authorization")
        return "200, no new setup"

    async def _status(self) -> str:
        status = await self._get("/")
        if status.get("ready") is not True or status.get("code") is not None:
            raise StepFailedError(f"ready: {status.get('ready')}, code: {status.get('code')}")
        return f"ready, generation {status.get('generation')}"

    async def _get(self, path: str) -> dict[str, Any]:
        fields = {"Accept": "application/json"}
        async with self._session.get(f"{self._origin}{path}", headers=fields) as response:
            _expect(response, 200)
            document: dict[str, Any] = await response.json()
            return document


def _expect(response: ClientResponse, status: int) -> None:
    if response.status != status:
        code = response.headers.get("X-Krebit-Proxy-Error", "")
        raise StepFailedError(f"the response was {response.status} {code}".rstrip())
