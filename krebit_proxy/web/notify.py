"""Sends alarms to people, through a webhook, a command, or both: the ways of the setting `notify`.

`Notifier` checks the grant every few seconds. `core.alarm` decides what to send and when to retry. Each way has a task
of its own, so a way that hangs does not delay the other.

The URL of a webhook is a secret, because it allows anyone to write into the channel. Only its scheme and host are
shown. If a response quotes more of it, that part is masked.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import aiohttp
import structlog

from krebit_proxy import USER_AGENT
from krebit_proxy.config import Settings
from krebit_proxy.core.alarm import Alarm, Message, Outbox, trial
from krebit_proxy.core.host import bracketed
from krebit_proxy.core.origin import own_origin
from krebit_proxy.core.times import iso
from krebit_proxy.core.token_error import displayable
from krebit_proxy.credentials import Credentials
from krebit_proxy.environment import harmless
from krebit_proxy.metrics import Metrics
from krebit_proxy.tasks import spawn
from krebit_proxy.trust import client_context

LOOK_EVERY: Final = 5.0  # seconds, at most
TIMEOUT: Final = 30.0  # seconds for one POST, or for the command
PAUSES: Final = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)  # seconds before each retry
LONGEST_ANSWER: Final = 1024  # bytes that are read of a response or of a command's output
LONGEST_WORDS: Final = 120  # characters that are shown of them
_SHORTEST_SECRET: Final = 6  # characters; shorter parts of a webhook's URL are words like "api"
_DAY: Final = 86400.0  # seconds; time-outs of the loop must be finite
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Letter:
    """A message, ready to be sent."""

    event: str
    content: bytes  # JSON


@dataclass(frozen=True, slots=True)
class Receipt:
    """The result of an attempt to send a message."""

    accepted: bool
    said: str  # the status, or the reason for a failure, in our words
    words: str = ""  # the first words of the response, safe to show
    unclear: bool = False  # the message may have arrived, but nothing confirms it


@dataclass(frozen=True, slots=True)
class Delivery:
    """The last attempt of a way, for the status page and `krebit-proxy check`."""

    event: str
    accepted: bool
    said: str
    at: float  # seconds since the epoch


class Way(Protocol):
    """A way to reach people: `Webhook` or `Command`."""

    @property
    def name(self) -> str:
        """The setting, without `notify.`."""

    @property
    def place(self) -> str:
        """Its destination, without secrets."""

    async def send(self, letter: Letter) -> Receipt:
        """Sends the letter once. Raises aiohttp.ClientError, OSError, TimeoutError or ValueError."""


class Webhook:
    """Sends the message as a POST to a URL. Does not follow redirects. Any status from 200 to 299 is a success."""

    name: Final = "webhook"

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError if `upstream.ca_file` is unusable."""
        self._url = str(settings.notify.webhook)
        self._proxy = settings.way_out.proxy_to(self._url)
        self._tls = client_context(settings.upstream.ca_file)
        self.place: Final = shown(self._url)

    async def send(self, letter: Letter) -> Receipt:
        fields = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls)) as session,
            session.post(
                self._url, data=letter.content, headers=fields, allow_redirects=False, proxy=self._proxy
            ) as response,
        ):
            words = _first_words(await response.content.read(LONGEST_ANSWER), _secrets_of(self._url))
            return Receipt(200 <= response.status < 300, f"status {response.status}", words)


class Command:
    """Runs a program with the message on standard input, without a shell. Exit status 0 is a success.

    The program gets only harmless environment variables, see `environment`, and KREBIT_PROXY_EVENT.
    After a time-out, the program is killed with all its children.
    """

    name: Final = "command"

    def __init__(self, settings: Settings, *, output: IO[bytes] | None = None) -> None:
        """`output`: a file for the output of the program. None: it is discarded."""
        self._line = shlex.split(settings.notify.command or "")
        self._output = output
        self.place: Final = self._line[0]

    @property
    def is_missing(self) -> bool:
        return shutil.which(self._line[0]) is None

    async def send(self, letter: Letter) -> Receipt:
        """Runs the program once. If cancelled, kills it before it returns."""
        start = asyncio.create_subprocess_exec(
            *self._line,
            stdin=asyncio.subprocess.PIPE,
            stdout=self._output or asyncio.subprocess.DEVNULL,
            stderr=self._output or asyncio.subprocess.DEVNULL,
            env={**harmless(os.environ), "KREBIT_PROXY_EVENT": letter.event},
            start_new_session=True,
        )
        starting = asyncio.ensure_future(start)
        try:
            process = await asyncio.shield(starting)
            await process.communicate(letter.content)
        finally:
            # A program that has just started may have children already, and asyncio would not kill those.
            process = await starting
            if process.returncode is None:
                _kill(process)
                await process.wait()
        return Receipt(process.returncode == 0, f"exit status {process.returncode}", self._printed())

    def _printed(self) -> str:
        if self._output is None:
            return ""
        self._output.seek(0)
        return _first_words(self._output.read(LONGEST_ANSWER), [])


def ways(settings: Settings, *, output: IO[bytes] | None = None) -> list[Way]:
    """The ways that are set. `output`: see `Command`. Raises SettingsError."""
    found: list[Way] = [Webhook(settings)] if settings.notify.webhook else []
    return [*found, Command(settings, output=output)] if settings.notify.command else found


async def send(way: Way, letter: Letter, timeout: float = TIMEOUT) -> Receipt:
    """Sends the letter once. Failures are in the receipt, in plain words: it raises nothing."""
    try:
        async with asyncio.timeout(timeout):
            return await way.send(letter)
    except TimeoutError:
        return Receipt(False, f"no answer within {timeout:g} seconds", unclear=True)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # Only our words: the text of the error may contain the URL.
        known = next((text for kind, text in _REASONS if isinstance(error, kind)), "")
        return Receipt(False, known or "the connection broke off", unclear=not known)


async def send_trial(settings: Settings, way: Way) -> Receipt:
    """Sends a test message."""
    return await send(way, write(trial(time.time()), settings.organization, None))


def write(message: Message, organization: str, setup_url: str | None) -> Letter:
    """The message as JSON. Its `text` is for chats, the other members are for programs."""
    setup_url = setup_url if message.needs_setup else None
    document = {
        "event": message.event,
        "code": message.code,
        "detail": message.detail,
        "hint": message.hint,
        "organization": organization,
        "since": iso(message.since),
        "setup_url": setup_url,
        "text": message.text(organization, setup_url, time.time()),
    }
    return Letter(message.event, json.dumps(document).encode())


class Notifier:
    """Checks the grant every few seconds, and sends the messages of `core.alarm`."""

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        origin: str,
        *,
        metrics: Metrics,
        deliveries: dict[str, Delivery],
        timeout: float = TIMEOUT,
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        """Raises SettingsError if `upstream.ca_file` is unusable.

        Args:
            settings: the settings.
            credentials: tell the state of the grant.
            origin: the address of this proxy, in case the redirect URI leads elsewhere.
            metrics: count the attempts.
            deliveries: gets the last attempt of each way, by the name of the way.
            timeout: seconds for one attempt.
            pauses: seconds before each retry.
        """
        self._organization = settings.organization
        self._credentials = credentials
        self._metrics = metrics
        self._deliveries = deliveries
        self._timeout = timeout
        own = own_origin(settings.redirect_uri, settings.access.allowed_hosts) or origin
        self._setup_url = f"{own}/setup" if own.startswith("http") else None  # no browser opens a unix socket
        self._alarm = Alarm(settings.notify.after)
        self._pause = min(LOOK_EVERY, settings.notify.after / 4)
        self._ways = [(way, Outbox(pauses), asyncio.Event()) for way in ways(settings)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts to check. Logs a missing command at once, not only when there is an alarm."""
        for way, outbox, news in self._ways:
            if isinstance(way, Command) and way.is_missing:
                _log.warning("notify.failed", way=way.name, place=way.place, reason="there is no such program")
            self._tasks.append(spawn(self._deliver(way, outbox, news), name=f"notify: {way.name}"))
        self._tasks.append(spawn(self._watch(), name="notify"))

    async def close(self) -> None:
        """Stops. An attempt under way is cancelled, and its command killed."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _watch(self) -> None:
        while True:
            # The monotonic clock stops while the machine sleeps, so the time asleep does not count as an outage.
            message = self._alarm.look(self._credentials.status(), time.monotonic(), time.time())
            if message is not None:
                for _, outbox, news in self._ways:
                    outbox.put(message, time.monotonic())
                    news.set()
            await asyncio.sleep(self._pause)

    async def _deliver(self, way: Way, outbox: Outbox, news: asyncio.Event) -> None:
        while True:
            news.clear()
            message = outbox.due(time.monotonic())
            if message is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(outbox.at - time.monotonic(), _DAY)):
                        await news.wait()
                continue
            letter = write(message, self._organization, self._setup_url)
            receipt = await send(way, letter, self._timeout)
            self._record(way, message, receipt, outbox)

    def _record(self, way: Way, message: Message, receipt: Receipt, outbox: Outbox) -> None:
        """Records an attempt. Logs it, but repeated failures for the same reason only once."""
        reason = "" if receipt.accepted else receipt.said
        tried = outbox.tried(message, reason, time.monotonic(), unclear=receipt.unclear)
        self._deliveries[way.name] = Delivery(message.event, receipt.accepted, receipt.said, time.time())
        self._metrics.notified(way.name, "sent" if receipt.accepted else "failed")
        facts = {"way": way.name, "place": way.place, "message": message.event, "code": message.code}
        if receipt.accepted:
            _log.info("notify.sent", **facts)
            return
        if tried.changed:
            _log.warning("notify.failed", **facts, reason=reason, answer=receipt.words)
        if tried.given_up:
            _log.warning("notify.given_up", **facts, reason=reason)


def shown(url: str) -> str:
    """The URL of a webhook without its secrets: scheme and host."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{bracketed(host)}"


def _secrets_of(url: str) -> list[str]:
    """All parts of a webhook's URL that a response might quote."""
    parts = urlsplit(url)
    values = [value for _, value in parse_qsl(parts.query)]
    pieces = [url, parts.path, parts.query, parts.password or "", parts.username or "", *parts.path.split("/"), *values]
    return [spelling for piece in pieces for spelling in (piece, unquote(piece)) if len(spelling) >= _SHORTEST_SECRET]


def _first_words(content: bytes, secrets: list[str]) -> str:
    """The beginning of a response, without markup and secrets."""
    text = re.sub(r"<[^>]*>", " ", content.decode("utf-8", "replace"))
    return " ".join(displayable(text, secrets).split())[:LONGEST_WORDS]


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kills the command and, where the system has sessions, all its children."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


# With these errors, nothing can have arrived.
_REASONS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (aiohttp.ClientConnectorDNSError, "its host name has no address"),
    (aiohttp.ClientConnectorCertificateError, "its certificate is not trusted"),
    (aiohttp.ClientSSLError, "no TLS connection"),
    (aiohttp.ClientProxyConnectionError, "no connection to the forward proxy"),
    (aiohttp.ClientHttpProxyError, "the forward proxy refused the connection"),
    (aiohttp.ClientConnectorError, "no connection"),
    (aiohttp.InvalidURL, "its URL is not valid"),
    (FileNotFoundError, "there is no such program"),
    (PermissionError, "the proxy may not run this program"),
)
