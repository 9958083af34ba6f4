"""An HTTP client that acts like a person with a browser: follows links, keeps cookies, answers the consent page."""

from html.parser import HTMLParser
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urljoin

from aiohttp import ClientSession, ClientTimeout, CookieJar

from krebit_proxy import USER_AGENT


class _ConsentForm(HTMLParser):
    """The target and the hidden fields of the form on a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = given["action"]
        elif tag == "input" and given.get("type") == "hidden":
            self.fields[given["name"]] = given["value"]


class Visitor:
    """One browser session. Use it as `async with Visitor() as visitor`."""

    def __init__(self) -> None:
        self._session = ClientSession(
            headers={"User-Agent": USER_AGENT}, cookie_jar=CookieJar(unsafe=True), timeout=ClientTimeout(total=10)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def open(self, url: str) -> tuple[int, str, str]:
        """Opens `url` and follows redirects. Returns the status, the final address and the page."""
        async with self._session.get(url) as response:
            return response.status, str(response.url), await response.text()

    async def consent(self, url: str, decision: Literal["allow", "deny"] = "allow") -> str:
        """Answers the consent page that `url` leads to. Returns the address that the browser goes to next.

        Raises ValueError if there is no consent page.
        """
        status, address, page = await self.open(url)
        form = _ConsentForm(page)
        if not form.action:
            raise ValueError(f"no consent page, but a page with status {status}")
        content = form.fields | {"decision": decision}
        async with self._session.post(urljoin(address, form.action), data=content, allow_redirects=False) as answer:
            return answer.headers.get("Location", "")
