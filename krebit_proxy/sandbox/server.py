"""The sandbox as a whole: one app, one API, one authorization server, on a loopback port."""

import asyncio
import ipaddress
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from krebit_proxy.errors import SettingsError
from krebit_proxy.sandbox.api import SandboxApi, errors_as_json
from krebit_proxy.sandbox.authorization_server import AuthorizationServer, Client
from krebit_proxy.sandbox.faults import TOKEN_ENDPOINT_FAULTS, Faults, Order, read_order
from krebit_proxy.sandbox.grants import Grants, Rotation
from krebit_proxy.sandbox.journal import Journal
from krebit_proxy.sandbox.pages import page

_STOP_WITHIN: Final = 0.2  # seconds for what is still being answered; a stand-in owes nobody more


@dataclass(frozen=True, slots=True)
class Options:
    """How the sandbox behaves. The id and the secret are no secrets: they open invented data on this machine."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one
    organization: str = "sandbox"
    app_name: str = "My legacy tool"
    client_id: str = "sandbox-client"
    client_secret: str = "sandbox-secret"
    redirect_uri: str = "http://localhost:8321/setup/callback"
    token_lifetime: float = 3600.0  # seconds
    rotation: Rotation = "strict"
    grace: float = 30.0  # seconds, for the rotation "grace"
    latency: float = 0.0  # seconds before every answer
    state: Path | None = None  # a file that keeps codes and tokens over a restart


class Sandbox:
    """A stand-in for Krebit. `faults` may be changed while it runs, `counters` be read."""

    def __init__(self, options: Options | None = None, say: Callable[[str], None] | None = None) -> None:
        """`say` is told, in sentences, what happens. Raises SettingsError for a host that is not loopback."""
        self.options = options or Options()
        _check_loopback(self.options.host)
        self.faults = Faults(self.options.token_lifetime, self.options.latency)
        self._grants = Grants(self.options.rotation, self.options.grace)
        self._journal = Journal(say)
        self._client = Client(
            self.options.organization,
            self.options.app_name,
            self.options.client_id,
            self.options.client_secret,
            self.options.redirect_uri,
        )
        self._api = SandboxApi(self.options.organization, self._grants, self.faults, self._journal)
        self._runner: web.AppRunner | None = None
        self._port = self.options.port

    @property
    def url(self) -> str:
        """Its origin, once it is started."""
        host = self.options.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    @property
    def client_id(self) -> str:
        """The id of the registered app."""
        return self.options.client_id

    @property
    def client_secret(self) -> str:
        """The secret of the registered app."""
        return self.options.client_secret

    @property
    def counters(self) -> Counter[str]:
        """What has happened so far, e.g. `token_requests`, `refreshes`, `api_unauthorized`."""
        return self._journal.counters

    def order(self, order: Order) -> None:
        """Sets faults or revokes tokens, like `POST /sandbox/faults`."""
        order.apply(self.faults, self._grants)

    async def start(self) -> None:
        """Listens. Raises OSError when the port is taken."""
        self._restore()
        runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=_STOP_WITHIN
        )
        await runner.setup()
        self._runner = runner
        try:
            await web.TCPSite(runner, self.options.host, self.options.port).start()
        except OSError:
            await self.stop()
            raise
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Stops listening and ends what is still open; harmless when it is not started."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            self._keep()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._in_front, errors_as_json])
        authorization_server = AuthorizationServer(self._client, self._grants, self.faults, self._journal)
        application.add_routes(authorization_server.routes())
        application.add_routes(self._api.routes())
        application.add_routes(
            [
                web.get("/", self._front_page),
                web.get("/developer/my-apps", self._my_apps),
                web.get("/sandbox/state", self._state),
                web.post("/sandbox/faults", self._faults),
            ]
        )
        return application

    @web.middleware
    async def _in_front(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.faults.latency and not request.path.startswith("/sandbox/"):
            await asyncio.sleep(self.faults.latency)
        of_the_api = request.path.startswith("/api/") and not request.path.startswith("/api/oauth/")
        response = (self._api.refusal(request) if of_the_api else None) or await handler(request)
        if request.method == "POST":
            self._keep()
        return response

    async def _front_page(self, _request: web.Request) -> web.Response:
        return page(
            "front.html",
            url=self.url,
            options=self.options,
            faults=self.faults,
            token_endpoint_faults=TOKEN_ENDPOINT_FAULTS,
        )

    async def _my_apps(self, _request: web.Request) -> web.Response:
        return page("apps.html", client=self._client, url=self.url)

    async def _state(self, _request: web.Request) -> web.Response:
        document = {
            "counters": dict(sorted(self.counters.items())),
            "tokens": self._grants.summary(time.time()),
            "faults": asdict(self.faults),
            "rotation": self.options.rotation,
        }
        return web.json_response(document, dumps=lambda value: json.dumps(value, indent=2) + "\n")

    async def _faults(self, request: web.Request) -> web.Response:
        try:
            order = await read_order(request)
        except ValueError as error:
            return web.Response(text=f"{error}\n", status=400)
        self.order(order)
        if order.revoke:
            self._journal.note("revoked_by_order", f"You revoked: {order.revoke}.")
        return await self._state(request)

    def _restore(self) -> None:
        path = self.options.state
        if path is None or not path.exists():
            return
        try:
            self._grants.load(json.loads(path.read_text()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SettingsError([f"{path} holds no state of the sandbox."], hint="Delete it to start anew.") from None

    def _keep(self) -> None:
        if self.options.state is not None:
            self.options.state.write_text(json.dumps(self._grants.dump()))


def _check_loopback(host: str) -> None:
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise SettingsError(
            [f"The sandbox does not listen on {host}: it is for this machine only."],
            hint="Use a loopback address: 127.0.0.1 or ::1.",
        )
