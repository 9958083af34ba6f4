"""The state of the grant for people, programs, probes and Prometheus.

`/` shows everything to those who may call the API, as a page or as JSON. Everybody else learns from it whether the
proxy is ready, and the way to setup. `/readyz` has more readers, such as the probes of a cluster. So it contains only
times, a code and texts of ours: no names, no addresses, and no text of a server or a database.

No page names the place of the store. That is in the log only.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Final

from aiohttp import web

from krebit_proxy import __version__
from krebit_proxy.config import Settings
from krebit_proxy.core.grant_status import GrantStatus
from krebit_proxy.core.notices import notices, refresh_token_end
from krebit_proxy.core.times import iso
from krebit_proxy.credentials import Credentials
from krebit_proxy.errors import CODES, SETUP_CODES
from krebit_proxy.metrics import CONTENT_TYPE, Metrics
from krebit_proxy.web.bridge import VISIT, Page
from krebit_proxy.web.notify import Delivery
from krebit_proxy.web.pages import BARE, allow, example_call, origin_seen, page

# The facts of a `GrantStatus` that /readyz shows as they are.
_PLAIN: Final = frozenset(
    {
        "ready",
        "code",
        "generation",
        "obtained_at",
        "expires_at",
        "last_refresh_at",
        "next_refresh_at",
        "refreshing",
        "lock_held",
        "refresh_began_at",
        "suspected",
        "refresh_token_expires_at",
        "refresh_token_end_is_fixed",
    }
)


class StatusPages:
    """The pages /, /healthz, /readyz and /metrics. None shows a token or waits for one."""

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        metrics: Metrics,
        *,
        setup: Callable[[], Mapping[str, object]],
        deliveries: Mapping[str, Delivery] = MappingProxyType({}),
    ) -> None:
        """`setup`: what `Setup` tells `krebit-proxy setup`. `deliveries`: filled by `Notifier`."""
        self._setup = setup
        self._deliveries = deliveries
        self._settings = settings
        self._credentials = credentials
        self._metrics = metrics

    def routes(self) -> dict[str, Page]:
        return {
            "/": self._status,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._scrape,
        }

    async def _status(self, request: web.BaseRequest) -> web.Response:
        allow(request, "GET", "HEAD")
        status, visit = self._credentials.status(), request[VISIT]
        if visit.prefers == "JSON":
            document = self._summary(status, request)
            if visit.may_call:
                document = self._document(status, request) | document
            return web.json_response(document, headers=BARE)
        title = CODES[status.code][1] if status.code else "Ready" if status.ready else "Not ready"
        setup_needed = status.code in SETUP_CODES
        if not visit.may_call:
            return page("summary.html", ready=status.ready, title=title, setup_needed=setup_needed)
        access, now = self._settings.access, time.time()
        return page(
            "status.html",
            settings=self._settings,
            grant=status,
            title=title,
            setup_needed=setup_needed,
            notices=notices(status, now),
            refresh_token_end=refresh_token_end(status, now),
            deliveries=self._deliveries,
            example=example_call(request, self._settings),
            guarded=bool(access.client_keys_file or access.require_header),
        )

    def _summary(self, status: GrantStatus, request: web.BaseRequest) -> dict[str, object]:
        """What everybody may know who reaches the page."""
        origin = origin_seen(request, self._settings) if status.code in SETUP_CODES else None
        return {
            "ready": status.ready,
            "code": status.code,
            "setup_url": f"{origin}/setup" if origin else None,
            "version": __version__,
        }

    def _document(self, status: GrantStatus, request: web.BaseRequest) -> dict[str, object]:
        """The rest of the page, for programs."""
        return _facts(status) | {
            "organization": self._settings.organization,
            "client_id": self._settings.client_id,
            "redirect_uri": self._settings.redirect_uri,
            "way_out": self._settings.way_out.described(self._settings.upstream_origin),
            "example": example_call(request, self._settings),
            "alarm": {way: _facts(last) for way, last in self._deliveries.items()},
        }

    async def _healthz(self, request: web.BaseRequest) -> web.Response:
        allow(request, "GET", "HEAD")
        return web.json_response({"status": "ok", **self._setup()}, headers=BARE)

    async def _readyz(self, request: web.BaseRequest) -> web.Response:
        allow(request, "GET", "HEAD")
        status = self._credentials.status()
        facts = {name: value for name, value in _facts(status).items() if name in _PLAIN}
        left = max(0, math.floor(status.expires_at - time.time())) if status.ready and status.expires_at else 0
        reason = {
            "detail": CODES[status.code][1] + "." if status.code else "Authorized.",
            "hint": "Run `krebit-proxy status`, or open the status page `/`." if status.code else "",
            "last_refresh": status.last_refresh and ("ok" if status.last_refresh == "ok" else "failed"),
            "seconds_left": left,
            "store_failed": status.store_error is not None,
        }
        return web.json_response(facts | reason, status=200 if status.ready else 503, headers=BARE)

    async def _scrape(self, request: web.BaseRequest) -> web.Response:
        allow(request, "GET", "HEAD")
        text = self._metrics.render(self._credentials.status())
        return web.Response(body=text, headers=BARE | {"Content-Type": CONTENT_TYPE})


def _facts(about: GrantStatus | Delivery) -> dict[str, object]:
    """All that is known; times are ISO 8601 in UTC."""
    return {
        name: iso(value) if isinstance(value, float) and (name == "at" or name.endswith("_at")) else value
        for name, value in asdict(about).items()
    }
