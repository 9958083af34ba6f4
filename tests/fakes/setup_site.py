"""The pages of setup and status on a real server, in front of a scripted token endpoint; the test is the browser."""

import io
import json
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from aiohttp import ClientSession, DummyCookieJar, web

from krebit_proxy import log
from krebit_proxy.config import Settings
from krebit_proxy.core.access import Rules
from krebit_proxy.core.admission import Request
from krebit_proxy.core.head import Head
from krebit_proxy.core.secret import Secret
from krebit_proxy.credentials import Credentials
from krebit_proxy.errors import ProxyError, Refused
from krebit_proxy.metrics import Metrics
from krebit_proxy.stores import open_store
from krebit_proxy.token_endpoint import TokenEndpoint
from krebit_proxy.web.bridge import VISIT, Visit
from krebit_proxy.web.problems import problem
from krebit_proxy.web.setup import Setup
from krebit_proxy.web.status import StatusPages

CLIENT_SECRET = Secret("marker-client-secret")


@dataclass
class Answer:
    """A response, read to its end. `headers` has every field, `cookies` the values of Set-Cookie."""

    status: int
    headers: dict[str, str]
    cookies: list[str]
    text: str

    @property
    def location(self) -> str:
        return self.headers["Location"]

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the redirect."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.location).query).items()}


class Site:
    """The pages, served. `localhost` is the name by which the redirect URI leads back."""

    def __init__(self, settings: Settings, port: int, output: io.StringIO) -> None:
        self.settings = settings
        self.port = port
        token_endpoint = TokenEndpoint(settings)
        store = open_store(settings)
        self.credentials = Credentials(settings, store, token_endpoint)
        self.setup = Setup(settings, self.credentials, token_endpoint)
        status = StatusPages(settings, self.credentials, Metrics(), setup=self.setup.for_command)
        self.pages = self.setup.routes() | status.routes()
        self.session = ClientSession(cookie_jar=DummyCookieJar())
        self.may_call = True  # whether the browser could call the API too
        self.cookie = ""  # what the browser has of ours
        self._output = output

    async def serve(self, request: web.BaseRequest) -> web.Response:
        head = Head.examined(request.raw_headers, http10=False, withheld=frozenset())
        peer = Rules().peer(request.remote, "127.0.0.1") if request.remote else Rules().unix_peer(None)
        asked = Request(peer, request.method.encode(), request.path_qs.encode(), head)
        request[VISIT] = Visit(peer, (asked.field(b"host") or b"").decode(), asked.prefers, self.may_call)
        try:
            if request.path not in self.pages:
                raise Refused("not_forwarded", "No such page.")
            return await self.pages[request.path](request)
        except ProxyError as error:
            status, fields, content = problem(error, "request-1", setup_url=None, html=asked.prefers == "page")
            return web.Response(status=status, headers=fields, body=content)

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The events in the log, those called `name` if given."""
        log.flush()
        events = [json.loads(line) for line in self._output.getvalue().splitlines()]
        return [event for event in events if not name or event["event"] == name]

    async def ask(
        self,
        path: str,
        method: str = "GET",
        *,
        host: str = "",
        data: dict[str, str] | None = None,
        cookie: str | None = None,
        fields: Mapping[str, str] = MappingProxyType({}),
    ) -> Answer:
        """One request as a browser makes it, redirects not followed. `host` is localhost:PORT unless given."""
        host = host or f"localhost:{self.port}"
        headers = {"Accept": "text/html", "Cookie": self.cookie if cookie is None else cookie, "Host": host, **fields}
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(method, url, headers=headers, data=data, allow_redirects=False) as response:
            cookies = response.headers.getall("Set-Cookie", [])
            return Answer(response.status, dict(response.headers), cookies, await response.text())

    async def start(
        self, path: str = "/setup", *, host: str = "", fields: Mapping[str, str] = MappingProxyType({})
    ) -> Answer:
        """Opens setup as a browser that keeps its cookie."""
        answer = await self.ask(path, host=host, fields=fields)
        if answer.cookies:
            self.cookie = answer.cookies[0].partition(";")[0]
        return answer

    async def come_back(self, state: str, code: str = "good-code", **parameters: str) -> Answer:
        """What the authorization server makes the browser do."""
        query = urlencode({"code": code, "state": state, **parameters} if code else {"state": state, **parameters})
        return await self.ask(f"/setup/callback?{query}")

    async def set_up(self) -> None:
        """Goes through it all."""
        answer = await self.come_back((await self.start()).query["state"])
        assert answer.location == "/setup/done"


@asynccontextmanager
async def setup_site(
    url: str, folder: Path, *, listener: socket.socket | None = None, **overrides: Any
) -> AsyncIterator[Site]:
    """Serves the pages on `listener`, or on a free port of 127.0.0.1. `PORT` in the redirect URI is that port."""
    listener = listener or socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    given = {
        "organization": "acme",
        "client_id": "my-app",
        "client_secret": CLIENT_SECRET,
        "redirect_uri": "http://localhost:PORT/setup/callback",
        "store": f"file:{folder / 'grant'}",
        "upstream": {"url": url},
        **overrides,
    }
    given["redirect_uri"] = re.sub("PORT", str(port), given["redirect_uri"])
    output = io.StringIO()
    settings = Settings.model_validate(given)
    log.configure(settings.log.model_copy(update={"format": "json", "level": "debug"}), output)
    site = Site(settings, port, output)
    runner = web.ServerRunner(web.Server(site.serve, access_log=None))
    await runner.setup()
    await web.SockSite(runner, listener).start()
    await site.credentials.start()
    try:
        yield site
    finally:
        await site.session.close()
        await runner.cleanup()
        await site.setup.close()
        await site.credentials.close()
