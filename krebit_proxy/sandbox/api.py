"""A small, realistic Krebit API. Every resource needs a valid access token (RFC 6750)."""

import asyncio
import json
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from itertools import count
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web
from aiohttp.typedefs import Handler

from krebit_proxy.sandbox import records
from krebit_proxy.sandbox.faults import Faults
from krebit_proxy.sandbox.grants import Grants
from krebit_proxy.sandbox.journal import Journal

_LONGEST_PAGE: Final = 100
_MOST_ROWS: Final = 1_000_000  # of an export; some 40 MB
_BEARER: Final = re.compile(r"Bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)  # RFC 6750, 2.1
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


class SandboxApi:
    """The resources under /api/."""

    def __init__(self, organization: str, grants: Grants, faults: Faults, journal: Journal) -> None:
        self._organization = organization
        self._grants = grants
        self._faults = faults
        self._journal = journal
        self._customers = {customer["id"]: customer for customer in records.customers()}
        self._invoices = {invoice["id"]: invoice for invoice in records.invoices()}

    def routes(self) -> list[web.RouteDef]:
        """All resources. They need the check by `refusal` before them."""
        return [
            web.get("/api/me", self.me),
            web.get("/api/customers", self.customers),
            web.get("/api/customers/{id}", self.customer),
            web.get("/api/invoices", self.invoices),
            web.post("/api/invoices", self.create_invoice),
            web.get("/api/invoices/{id}", self.invoice),
            web.get("/api/credit-reports/{organization_number}", self.credit_report),
            web.get("/api/exports/{id}.csv", self.export),
            web.post("/api/uploads", self.upload),
            web.put("/api/uploads", self.upload),
            web.get("/api/events", self.events, allow_head=False),
        ]

    def refusal(self, request: web.BaseRequest) -> web.Response | None:
        """The 401 for a request without a valid token. None if the request may pass."""
        self._journal.note("api_requests")
        token = _BEARER.fullmatch(request.headers.get("Authorization", ""))
        if token is None:
            # RFC 6750 3.1: "If the request lacks any authentication information [...], the resource server SHOULD NOT
            # include an error code or other error information."
            return self._unauthorized(request, 'Bearer realm="krebit"', "This API needs an access token.")
        now, path = time.time(), request.raw_path.partition("?")[0].encode("utf-8", "surrogateescape")
        if self._faults.refuses(path, now) or not self._grants.live(token[1], now):
            challenge = 'Bearer realm="krebit", error="invalid_token", error_description="expired or revoked"'
            return self._unauthorized(request, challenge, "The access token is expired, revoked or unknown.")
        return None

    def _unauthorized(self, request: web.BaseRequest, challenge: str, message: str) -> web.Response:
        self._journal.note("api_unauthorized", f"401 for {request.method} {request.path}: {message}")
        return _error(401, "unauthorized", message, {"WWW-Authenticate": challenge})

    async def me(self, _request: web.Request) -> web.Response:
        return web.json_response(records.ME | {"organization": self._organization})

    async def customers(self, request: web.Request) -> web.Response:
        return _listing(request, list(self._customers.values()))

    async def customer(self, request: web.Request) -> web.Response:
        return web.json_response(_found(self._customers, request.match_info["id"]))

    async def invoices(self, request: web.Request) -> web.Response:
        return _listing(request, list(self._invoices.values()))

    async def invoice(self, request: web.Request) -> web.Response:
        return web.json_response(_found(self._invoices, request.match_info["id"]))

    async def create_invoice(self, request: web.Request) -> web.Response:
        """Takes `{"customer_id": "cus_001", "amount": 1250}`."""
        wanted = await _json_object(request)
        customer_id, amount = wanted.get("customer_id"), wanted.get("amount")
        if customer_id not in self._customers:
            return _error(422, "invalid", "customer_id must be the id of a customer, for example cus_001.")
        if not isinstance(amount, int | float) or isinstance(amount, bool) or amount <= 0:
            return _error(422, "invalid", "amount must be more than 0 kronor.")
        invoice = records.invoice(len(self._invoices) + 1, str(customer_id), amount)
        self._invoices[invoice["id"]] = invoice
        self._journal.note("invoices_created", f"Invoice {invoice['id']} was created.")
        return web.json_response(invoice, status=201, headers={"Location": f"/api/invoices/{invoice['id']}"})

    async def credit_report(self, request: web.Request) -> web.Response:
        """The organization numbers are 550000-1001 to 550000-1057."""
        by_number = {customer["organization_number"]: customer for customer in self._customers.values()}
        return web.json_response(records.credit_report(_found(by_number, request.match_info["organization_number"])))

    async def export(self, request: web.Request) -> web.Response:
        """A download with `?rows=` lines. Supports `Range` (RFC 9110, 14)."""
        rows = _whole_number(request, "rows", 1000, _MOST_ROWS)
        content = "".join(records.export_lines(rows)).encode()
        etag = f'"{sha256(content).hexdigest()[:16]}"'
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Disposition": f'attachment; filename="export-{rows}.csv"',
            "ETag": etag,
        }
        # RFC 9110 13.1.5: a Range whose If-Range does not match is ignored.
        wanted = request.headers.get("Range") if request.headers.get("If-Range", etag) == etag else None
        part = _part(wanted, len(content))
        if part is None:
            return web.Response(body=content, content_type="text/csv", charset="utf-8", headers=headers)
        if not part:
            return web.Response(status=416, headers=headers | {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(content)}"
        body = content[part.start : part.stop]
        return web.Response(body=body, status=206, content_type="text/csv", charset="utf-8", headers=headers)

    async def upload(self, request: web.Request) -> web.Response:
        """Returns the length and the SHA-256 of the body."""
        digest, length = sha256(), 0
        async for chunk in request.content.iter_any():
            digest.update(chunk)
            length += len(chunk)
        self._journal.note("uploads")
        return web.json_response({"length": length, "sha256": digest.hexdigest()}, status=201)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """A stream of events, one per second or per `?interval_ms=`. Ends after `?count=` events, or never."""
        last = _whole_number(request, "count", 0, _MOST_ROWS)
        interval = _whole_number(request, "interval_ms", 1000, 60_000) / 1000
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        for number in count(1):
            event = {"invoice": f"inv_{number % len(self._invoices) + 1:04}", "status": "paid"}
            await response.write(f"id: {number}\nevent: invoice.paid\ndata: {json.dumps(event)}\n\n".encode())
            if number == last:
                break
            await asyncio.sleep(interval)
        return response


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Below /api/, HTTP errors (404, 405 ...) are JSON too."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if not request.path.startswith("/api/"):
            raise
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _error(error.status, error.reason.lower().replace(" ", "_"), error.text or error.reason, allow)


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)


def _found(known: dict[str, records.Record], key: str) -> records.Record:
    if key not in known:
        raise web.HTTPNotFound(text="No such resource.")
    return known[key]


def _listing(request: web.Request, everything: list[records.Record]) -> web.Response:
    """A page of `everything` by `?limit=` and `?cursor=`. `next_cursor` and `Link` lead to the next one."""
    limit = _whole_number(request, "limit", 20, _LONGEST_PAGE)
    start = _position(request.query.get("cursor"))
    end = start + max(limit, 1)
    cursor = _cursor(end) if end < len(everything) else None
    answer: dict[str, Any] = {"data": everything[start:end], "total": len(everything), "next_cursor": cursor}
    headers = {}
    if cursor:
        query = urlencode({"limit": limit, "cursor": cursor})
        headers["Link"] = f'<{request.path}?{query}>; rel="next"'  # RFC 8288
    return web.json_response(answer, headers=headers)


def _cursor(position: int) -> str:
    """Opaque on purpose: a client that parses it would break with the real API."""
    return urlsafe_b64encode(f"after:{position}".encode()).decode().rstrip("=")


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        return int(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().removeprefix("after:"))
    except ValueError:
        raise web.HTTPBadRequest(text="cursor is invalid; use next_cursor of the page before.") from None


def _whole_number(request: web.Request, name: str, default: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text) <= most):
        raise web.HTTPBadRequest(text=f"{name} must be a whole number up to {most}.")
    return int(text)


def _part(wanted: str | None, length: int) -> range | None:
    """The bytes that a Range asks for. Empty if none of them exist. None if the Range is to be ignored.

    RFC 9110 14.2: "A server that supports range requests MAY ignore or reject a Range header field that contains an
    invalid ranges-specifier". More than one range is ignored too.
    """
    match = _RANGE.fullmatch(wanted or "")
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:  # the last so many bytes
        return range(max(0, length - int(match[2])), length)
    start, end = int(match[1]), min(int(match[2] or length), length - 1)
    return None if match[2] and int(match[2]) < start else range(start, end + 1)


async def _json_object(request: web.Request) -> dict[str, Any]:
    try:
        document = json.loads(await request.text())
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise web.HTTPBadRequest(text="The body must be a JSON object.")
    return document
