"""The pages that tell how things stand: for people, for programs, for probes, for Prometheus."""

from dataclasses import asdict
from datetime import UTC, datetime

from aiohttp import web

from krebit_proxy import __version__
from krebit_proxy.config import Settings
from krebit_proxy.core.grant_status import GrantStatus
from krebit_proxy.credentials import Credentials
from krebit_proxy.errors import CODES, SETUP_CODES
from krebit_proxy.metrics import CONTENT_TYPE, Metrics
from krebit_proxy.web.bridge import VISIT, Page
from krebit_proxy.web.pages import BARE, allow, example_call, origin_seen, page


class StatusPages:
    """GET / for people and as JSON, /healthz, /readyz and /metrics. None of them shows a token or waits for one."""

    def __init__(self, settings: Settings, credentials: Credentials, metrics: Metrics, *, run: str) -> None:
        """`run`: from `Setup`, for whoever makes a one-time key."""
        self._run = run
        self._settings = settings
        self._credentials = credentials
        self._metrics = metrics

    def routes(self) -> dict[str, Page]:
        """The pages by exact path."""
        return {
            "/": self._status,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._scrape,
        }

    async def _status(self, request: web.BaseRequest) -> web.Response:
        allow(request, "GET", "HEAD")
        status = self._credentials.status()
        if request[VISIT].prefers == "JSON":
            return web.json_response(self._document(status, request), headers=BARE)
        access = self._settings.access
        return page(
            "status.html",
            settings=self._settings,
            grant=status,
            title=CODES[status.code][1] if status.code else "Not ready",
            setup_needed=status.code in SETUP_CODES,
            example=example_call(request, self._settings),
            guarded=bool(access.client_keys_file or access.require_header),
        )

    def _document(self, status: GrantStatus, request: web.BaseRequest) -> dict[str, object]:
        """What the page shows, for programs."""
        origin = origin_seen(request, self._settings) if status.code in SETUP_CODES else None
        return _facts(status) | {
            "organization": self._settings.organization,
            "client_id": self._settings.client_id,
            "redirect_uri": self._settings.redirect_uri,
            "setup_url": f"{origin}/setup" if origin else None,
            "example": example_call(request, self._settings),
            "version": __version__,
        }

    async def _healthz(self, request: web.BaseRequest) -> web.Response:
        allow(request, "GET", "HEAD")
        return web.json_response({"status": "ok", "run": self._run}, headers=BARE)

    async def _readyz(self, request: web.BaseRequest) -> web.Response:
        allow(request, "GET", "HEAD")
        status = self._credentials.status()
        code = 200 if status.ready else 503
        return web.json_response(_facts(status), status=code, headers=BARE)

    async def _scrape(self, request: web.BaseRequest) -> web.Response:
        allow(request, "GET", "HEAD")
        text = self._metrics.render(self._credentials.status())
        return web.Response(body=text, headers=BARE | {"Content-Type": CONTENT_TYPE})


def _facts(status: GrantStatus) -> dict[str, object]:
    """The state of the grant; times are ISO 8601 in UTC."""
    return {name: _utc(value) if name.endswith("_at") else value for name, value in asdict(status).items()}


def _utc(at: float | None) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") if at is not None else None
