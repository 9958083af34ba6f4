"""Tells people outside that the grant is in trouble, or well again: through a webhook, a command, or both."""

import asyncio
import json
import os
import shlex
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import aiohttp
import structlog

from krebit_proxy.config import Settings, is_setting
from krebit_proxy.core.alarm import Alarm, Message
from krebit_proxy.core.origin import own_origin
from krebit_proxy.credentials import Credentials
from krebit_proxy.errors import SETUP_CODES
from krebit_proxy.tasks import spawn
from krebit_proxy.trust import client_context

LOOK_EVERY: Final = 5.0  # seconds, at most
TIMEOUT: Final = 30.0  # seconds for one POST, or for the command
PAUSES: Final = (5.0, 30.0)  # seconds before the webhook is tried again
_log = structlog.get_logger()


class Notifier:
    """Looks at the grant every few seconds and tells what `core.alarm` wants told, one message after the other."""

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        origin: str,
        *,
        timeout: float = TIMEOUT,
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        """`origin`: where this proxy is reached, for a redirect URI that leads elsewhere.

        Raises SettingsError when `upstream.ca_file` cannot be used.
        """
        self._settings = settings
        self._credentials = credentials
        self._timeout = timeout
        self._pauses = pauses
        self._tls = client_context(settings.upstream.ca_file) if settings.notify.webhook else True
        self._command = shlex.split(settings.notify.command or "")
        own = own_origin(settings.redirect_uri, settings.access.allowed_hosts) or origin
        self._setup_url = f"{own}/setup" if own.startswith("http") else None  # no browser opens a unix socket
        self._alarm = Alarm(settings.notify.after)
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Looks from now on. A command that is not there is told of at once, and not when it is needed."""
        if self._command and shutil.which(self._command[0]) is None:
            _log.warning("notify.failed", way="command", reason="there is no such program")
        self._watching = spawn(self._watch(), name="notify")

    async def close(self) -> None:
        """Stops looking. A message that is on its way is given up, and its command killed."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def _watch(self) -> None:
        pause = min(LOOK_EVERY, self._settings.notify.after / 4)
        while True:
            # The monotonic clock stops while the machine sleeps: waking up is no trouble that has lasted for long.
            message = self._alarm.look(self._credentials.status(), time.monotonic(), time.time())
            if message is not None:
                await self._tell(message)
            await asyncio.sleep(pause)

    async def _tell(self, message: Message) -> None:
        ways = []
        if self._settings.notify.webhook is not None:
            ways.append(self._try("webhook", self._post, message, self._pauses))
        if self._command:
            ways.append(self._try("command", self._run, message, ()))
        await asyncio.gather(*ways)

    async def _try(
        self, way: str, send: Callable[[Message], Awaitable[str]], message: Message, pauses: tuple[float, ...]
    ) -> None:
        """Sends until it succeeds, once more after each of `pauses`; what came of it is one line in the log."""
        reason = ""
        for pause in (0.0, *pauses):
            await asyncio.sleep(pause)
            try:
                async with asyncio.timeout(self._timeout):
                    reason = await send(message)
            except Exception as error:  # whatever it is, the next message must still be told
                reason = type(error).__name__  # its text may hold the webhook's address, which may be a secret
            if not reason:
                _log.info("notify.sent", way=way, message=message.event, code=message.code)
                return
        _log.warning("notify.failed", way=way, message=message.event, code=message.code, reason=reason)

    async def _post(self, message: Message) -> str:
        """One POST to the webhook. Returns why it did not arrive, or nothing."""
        url = str(self._settings.notify.webhook)
        proxy = self._settings.upstream.proxy_to(url)
        fields = {"Content-Type": "application/json", "User-Agent": "krebit-proxy"}
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls)) as session,
            session.post(
                url, data=self._content(message), headers=fields, allow_redirects=False, proxy=proxy
            ) as response,
        ):
            return "" if 200 <= response.status < 300 else f"status {response.status}"

    async def _run(self, message: Message) -> str:
        """One run of the command, without a shell. Returns why it failed, or nothing."""
        start = asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=_environment(message),
            start_new_session=True,
        )
        starting = asyncio.ensure_future(start)
        try:
            process = await asyncio.shield(starting)
            await process.communicate(self._content(message))
        finally:
            # Also what is only just starting may run already, with children of its own: asyncio would spare those.
            process = await starting
            if process.returncode is None:
                _kill(process)
                await process.wait()
        return f"exit status {process.returncode}" if process.returncode else ""

    def _content(self, message: Message) -> bytes:
        document = {
            "event": message.event,
            "code": message.code,
            "detail": message.detail,
            "hint": message.hint,
            "organization": self._settings.organization,
            "since": datetime.fromtimestamp(message.since, UTC).isoformat(timespec="seconds"),
            "setup_url": self._setup_url if message.code in SETUP_CODES else None,
        }
        return json.dumps(document).encode()


def _environment(message: Message) -> dict[str, str]:
    """Ours, without settings, some of which are secrets; a `krebit-proxy` that is called still finds its file."""
    ours = {name: value for name, value in os.environ.items() if not is_setting(name)}
    return ours | {"KREBIT_PROXY_EVENT": message.event}


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kills the command, and where there are sessions all that it has started."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
