"""The whole sandbox: one app, one API and one authorization server on a loopback port."""

import asyncio
import ipaddress
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from krebit_proxy.core.host import bracketed
from krebit_proxy.errors import SettingsError
from krebit_proxy.files import replace
from krebit_proxy.sandbox import door
from krebit_proxy.sandbox import faults as known_faults
from krebit_proxy.sandbox.api import SandboxApi, errors_as_json
from krebit_proxy.sandbox.authorization_server import AuthorizationServer, Client
from krebit_proxy.sandbox.faults import Faults, Order, read_order
from krebit_proxy.sandbox.grants import Grants, Rotation
from krebit_proxy.sandbox.journal import Journal
from krebit_proxy.sandbox.pages import page

_STOP_WITHIN: Final = 0.2  # seconds for running requests


@dataclass(frozen=True, slots=True)
class Options:
    """How the sandbox behaves. The client secret is not secret: it gives access to made-up data on this computer."""

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
    latency: float = 0.0  # seconds before every response
    state: Path | None = None  # keeps codes and tokens over a restart


class Sandbox:
    """A stand-in for Krebit. While it runs, you can change `faults` and read `counters`."""

    def __init__(self, options: Options | None = None, say: Callable[[str], None] | None = None) -> None:
        """`say` gets a sentence for each event. Raises SettingsError if the host is not loopback."""
        self.options = options or Options()
        _check_loopback(self.options.host)
        self.faults = Faults(token_lifetime=self.options.token_lifetime, latency=self.options.latency)
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
        """The origin. Valid after `start`, which picks the port if it is 0."""
        host = self.options.host
        return f"http://{bracketed(host)}:{self._port}"

    @property
    def client_id(self) -> str:
        return self.options.client_id

    @property
    def client_secret(self) -> str:
        return self.options.client_secret

    @property
    def counters(self) -> Counter[str]:
        """Numbers of events, for example `token_requests`, `refreshes`, `api_unauthorized`."""
        return self._journal.counters

    def order(self, order: Order) -> None:
        """Sets faults or revokes tokens, like `POST /sandbox/faults`."""
        order.apply(self.faults, self._grants, time.time())

    async def start(self) -> None:
        """Raises OSError if the port is in use."""
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
        """Stops listening and closes all connections. Does nothing if it is not started."""
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
                web.get("/sandbox/faults", self._faults_page),
                web.post("/sandbox/faults", self._faults),
            ]
        )
        return application

    @web.middleware
    async def _in_front(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if (refused := door.refusal(request, self.url)) is not None:
            self._journal.note("refused_at_the_door")
            return refused
        if self.faults.latency and not request.path.startswith("/sandbox/"):
            await asyncio.sleep(self.faults.latency)
        of_the_api = request.path.startswith("/api/") and not request.path.startswith("/api/oauth/")
        response = (self._api.refusal(request) if of_the_api else None) or await handler(request)
        if request.method == "POST" and not of_the_api:  # whose POSTs change no grant
            self._keep()
        return response

    async def _front_page(self, _request: web.Request) -> web.Response:
        return page(
            "front.html",
            url=self.url,
            options=self.options,
        )

    async def _my_apps(self, _request: web.Request) -> web.Response:
        return page("apps.html", client=self._client, url=self.url)

    async def _state(self, _request: web.Request) -> web.Response:
        document = {
            "counters": dict(sorted(self.counters.items())),
            "tokens": self._grants.summary(time.time()),
            "faults": self.faults.in_force(time.time()),
            "rotation": self.options.rotation,
        }
        return web.json_response(document, dumps=lambda value: json.dumps(value, indent=2) + "\n")

    async def _faults_page(self, _request: web.Request) -> web.Response:
        return self._faults_form()

    def _faults_form(self, problem: str = "") -> web.Response:
        """The page with the form for faults. `problem` says what was wrong with the last order."""
        return page(
            "faults.html",
            status=400 if problem else 200,
            form_action="'self'",
            url=self.url,
            faults=self.faults.in_force(time.time()),
            known=known_faults,
            problem=problem,
        )

    async def _faults(self, request: web.Request) -> web.Response:
        from_page = "text/html" in request.headers.get("Accept", "")
        try:
            order = await read_order(request)
        except ValueError as error:
            return self._faults_form(str(error)) if from_page else web.Response(text=f"{error}\n", status=400)
        self.order(order)
        if order.revoke:
            self._journal.note("revoked_by_order", f"You revoked: {order.revoke}.")
        if from_page:
            return web.Response(status=303, headers={"Location": "/sandbox/faults"})
        return await self._state(request)

    def _restore(self) -> None:
        path = self.options.state
        if path is None or not path.exists():
            return
        try:
            self._grants.load(json.loads(path.read_text()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SettingsError(
                [f"{path} is not a state file of the sandbox."], hint="Choose another file, or delete it."
            ) from None

    def _keep(self) -> None:
        if self.options.state is not None:
            replace(self.options.state, json.dumps(self._grants.dump()))


def _check_loopback(host: str) -> None:
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise SettingsError(
            [f"The sandbox does not listen on {host}: it is for this computer only."],
            hint="Use a loopback address: 127.0.0.1 or ::1.",
        )
