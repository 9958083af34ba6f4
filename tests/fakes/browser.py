"""A real Chromium, driven over its own debugging protocol; nothing but Debian's package is needed.

The protocol is JSON, each message ended by a NUL, over two pipes that the browser finds as descriptors 3 and 4.
"""

import asyncio
import base64
import contextlib
import fcntl
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from krebit_proxy.tasks import spawn

DEADLINE: Final = 30.0  # seconds for anything that a page does
_LONGEST_MESSAGE: Final = 64 << 20  # bytes; a screenshot is one message
CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_ARGUMENTS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)

# For whole modules: `pytestmark = needs_chromium`. In CI a browser that is missing is a failure.
needs_chromium: Final = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM and not os.environ.get("CI"), reason="no Chromium is installed"),
]


class Tab:
    """One page. `messages` collects what the browser complains of, such as a policy that was broken."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session
        self.messages: list[str] = []

    async def call(self, method: str, **parameters: Any) -> Any:
        """One command of the debugging protocol."""
        return await self._browser.call(method, self._session, **parameters)

    async def goto(self, url: str) -> None:
        """Opens `url` as if it was typed, and waits until the page is there."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def run(self, script: str) -> Any:
        """The value of an expression in the page, a promise awaited. Counts as a gesture of the user."""
        answer = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Waits until the expression is true, over navigations."""
        async with asyncio.timeout(DEADLINE):
            while not await self._holds(condition):  # the page has no event to offer
                await asyncio.sleep(0.02)

    async def _holds(self, condition: str) -> bool:
        try:
            return bool(await self.run(f"!!({condition})"))
        except RuntimeError:  # the page was leaving just then
            return False

    async def click(self, selector: str) -> None:
        """Clicks the first element that matches."""
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")

    async def fill(self, selector: str, text: str) -> None:
        """Types into a field."""
        await self.run(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(text)}")

    async def text(self) -> str:
        """What a person reads."""
        return str(await self.run("document.body.innerText"))

    async def url(self) -> str:
        """Where the page came from."""
        return str(await self.run("location.href"))

    async def screenshot(self, path: Path, *, width: int = 1000, height: int = 900, dark: bool = False) -> None:
        """Writes a PNG of the whole page."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        image = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(image["data"]))


class Browser:
    """A browser with a profile of its own."""

    def __init__(self, answers: asyncio.StreamReader, commands: int) -> None:
        self._reader = answers
        self._commands = commands  # a descriptor to write to
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._tabs: dict[str, Tab] = {}

    async def tab(self) -> Tab:
        """A new, empty page."""
        target = await self.call("Target.createTarget", url="about:blank")
        return await self._attach(target["targetId"])

    async def tab_opened_by_a_page(self, part_of_url: str) -> Tab:
        """The page that a link has opened beside its own, once it is at an address with `part_of_url`."""
        async with asyncio.timeout(DEADLINE):
            while True:
                for target in (await self.call("Target.getTargets"))["targetInfos"]:
                    if target["type"] == "page" and not target["attached"] and part_of_url in target["url"]:
                        return await self._attach(target["targetId"])
                await asyncio.sleep(0.02)

    async def _attach(self, target: str) -> Tab:
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Log"):
            await tab.call(f"{domain}.enable")
        return tab

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """One command of the debugging protocol. Raises RuntimeError where it fails."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        return await asyncio.wait_for(answer, DEADLINE)

    async def listen(self) -> None:
        """Sorts what the browser sends, until it ends."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                document = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                if "id" in document:
                    self._answer(document)
                elif document["method"] == "Log.entryAdded":
                    self._tabs[document["sessionId"]].messages.append(document["params"]["entry"]["text"])
        for answer in self._answers.values():
            answer.cancel()

    def _answer(self, document: dict[str, Any]) -> None:
        answer = self._answers.pop(document["id"])
        if answer.done():
            return
        if "error" in document:
            answer.set_exception(RuntimeError(document["error"]["message"]))
        else:
            answer.set_result(document["result"])


@asynccontextmanager
async def chromium(profile: Path, *arguments: str) -> AsyncIterator[Browser]:
    """Starts Chromium with an empty profile in the folder `profile`; `arguments` are added to its command line."""
    assert CHROMIUM, "Chromium is missing: apt-get install chromium"
    theirs_in, ours_out = _pipe()
    ours_in, theirs_out = _pipe()
    reader = asyncio.StreamReader(limit=_LONGEST_MESSAGE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, "rb")
    )
    line = (CHROMIUM, *_ARGUMENTS, f"--user-data-dir={profile}", *arguments)
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *line),
        pass_fds=(theirs_in, theirs_out),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    browser = Browser(reader, ours_out)
    listening = spawn(browser.listen(), name="browser")
    try:
        yield browser
    finally:
        with contextlib.suppress(asyncio.CancelledError):  # it may be gone before it answers
            await browser.call("Browser.close")
        await listening
        await process.wait()
        transport.close()
        os.close(ours_out)


def _pipe() -> tuple[int, int]:
    """The ends of a pipe, both above the descriptors 3 and 4, which they must not collide with."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
