"""Whom the proxy tells that the grant is in trouble: a real server as webhook, a real script as command."""

import asyncio
import json
import os
import re
import shlex
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web

from krebit_proxy.metrics import Metrics
from krebit_proxy.web.notify import Notifier, shown
from tests.fakes.authorization_server import AuthorizationServer
from tests.fakes.certificates import Authority
from tests.fakes.proxy import running_proxy
from tests.fakes.setup_site import Site, setup_site
from tests.fakes.statuses import grant_status
from tests.fakes.waiting import eventually

SOON = 0.05  # for `notify.after`
HANG = 0


class Webhook:
    """Takes messages. `script` holds the statuses of its first answers; HANG is none, until the end."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.script: deque[int] = deque()
        self.requests: list[web.Request] = []
        self.messages: list[dict[str, Any]] = []
        self.words = ""  # of its answers
        self._end = asyncio.Event()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/secret-path", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._runner.addresses[0][1]}/secret-path"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end.set()
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        content = await request.json()
        self.requests.append(request)
        status = self.script.popleft() if self.script else 204
        if status == HANG:
            await self._end.wait()
        if 200 <= status < 300:
            self.messages.append(content)
        return web.Response(
            status=status, text=self.words, headers={"Location": self.url} if 300 <= status < 400 else {}
        )


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[AuthorizationServer]:
    async with AuthorizationServer() as server:
        yield server


@pytest.fixture(name="webhook")
async def _webhook() -> AsyncIterator[Webhook]:
    async with Webhook() as webhook:
        yield webhook


@pytest.fixture(name="script")
def _script(tmp_path: Path) -> Callable[[str], str]:
    """Makes a program of the lines of a shell script; gives the setting that runs it, with an argument."""
    (tmp_path / "my programs").mkdir()
    program = tmp_path / "my programs" / "tell"

    def make(lines: str) -> str:
        program.write_text(f"#!/bin/sh\ncd {shlex.quote(str(tmp_path))}\n{lines}\n")
        program.chmod(0o700)
        return f"'{program}' '$HOME; x'"

    return make


def notifier_of(site: Site, origin: str = "unix:/run/proxy", **options: Any) -> Notifier:
    settings = options.pop("settings", site.settings)
    return Notifier(settings, site.credentials, origin, metrics=Metrics(), deliveries={}, **options)


@asynccontextmanager
async def notifying(
    server: AuthorizationServer,
    folder: Path,
    /,
    *,
    timeout: float = 20,
    upstream: dict[str, Any] | None = None,
    **notify: Any,
) -> AsyncIterator[tuple[Site, Notifier]]:
    """A site that has lost its grant, and what tells of it; not started yet. Pauses are short."""
    async with setup_site(server.url, folder, notify={"after": SOON, **notify}) as site:
        await site.set_up()
        await site.credentials.logout()
        changed = site.settings.upstream.model_copy(update=upstream or {})
        settings = site.settings.model_copy(update={"upstream": changed})
        notifier = notifier_of(site, settings=settings, timeout=timeout, pauses=(0.01, 0.01))
        try:
            yield site, notifier
        finally:
            await notifier.close()


async def outcome(site: Site, name: str) -> dict[str, Any]:
    """The one event of this name."""
    await eventually(lambda: site.events(name), what=name)
    [event] = site.events(name)
    return event


async def test_the_proxy_tells_a_webhook_and_a_command_of_a_verdict(
    server: AuthorizationServer, webhook: Webhook, script: Callable[[str], str], tmp_path: Path
) -> None:
    server.script.append((400, '{"error": "invalid_grant"}', {"Content-Type": "application/json"}))
    notify = {"webhook": webhook.url, "command": script("cat > told"), "after": SOON}
    before = datetime.now(UTC).replace(microsecond=0)
    async with running_proxy(server.url, tmp_path, grant={"expires_in": -1}, notify=notify) as proxy:
        # On a slow machine the refresh itself may already have been a trouble that lasted, and was told of first.
        code = "reauthorization_required"
        await eventually(lambda: sum(event["code"] == code for event in proxy.events("notify.sent")) == 2)
        sent = [event for event in proxy.events("notify.sent") if event["code"] == code]

    [message] = [message for message in webhook.messages if message["code"] == code]
    assert before <= datetime.fromisoformat(message.pop("since")) <= datetime.now(UTC)
    detail = message.pop("detail")
    assert "invalid_grant" in detail
    assert message.pop("text") == (
        f"krebit-proxy at acme: {detail} Open /setup in a browser to authorize again: http://localhost:8321/setup"
    )
    assert message == {
        "event": "problem",
        "code": "reauthorization_required",
        "hint": "Open /setup in a browser to authorize again.",
        "organization": "acme",
        "setup_url": "http://localhost:8321/setup",
    }
    assert json.loads((tmp_path / "told").read_text()).items() > message.items()
    assert sorted(event["way"] for event in sent) == ["command", "webhook"]
    assert {(event["message"], event["code"]) for event in sent} == {("problem", "reauthorization_required")}
    assert "secret-path" not in proxy.written()
    assert webhook.requests[0].content_type == "application/json"


async def test_a_person_is_called_at_once_while_the_token_is_still_accepted(
    server: AuthorizationServer, webhook: Webhook, tmp_path: Path
) -> None:
    server.script.append((400, '{"error": "invalid_grant"}', {"Content-Type": "application/json"}))
    notify = {"webhook": webhook.url, "after": 600}
    async with running_proxy(server.url, tmp_path, grant={"expires_in": 250}, notify=notify):
        await eventually(lambda: webhook.messages)

    assert webhook.messages[0]["code"] == "reauthorization_required"
    assert "Calls still work until " in webhook.messages[0]["text"]


async def test_without_these_settings_nobody_watches(server: AuthorizationServer, tmp_path: Path) -> None:
    async with running_proxy(server.url, tmp_path):
        assert "notify" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_recovery_is_told(server: AuthorizationServer, webhook: Webhook, tmp_path: Path) -> None:
    async with notifying(server, tmp_path, webhook=webhook.url) as (site, notifier):
        notifier.start()
        await eventually(lambda: webhook.messages)
        await site.set_up()
        await eventually(lambda: len(webhook.messages) == 2)

    problem, recovered = webhook.messages
    assert (problem["event"], problem["code"]) == ("problem", "setup_required")
    assert problem["setup_url"] == f"http://localhost:{site.port}/setup"
    assert recovered.pop("since") >= problem["since"]
    assert recovered.pop("text").startswith("krebit-proxy at acme works again since ")
    assert recovered == {
        "event": "recovered",
        "code": None,
        "detail": "Authorized.",
        "hint": "",
        "organization": "acme",
        "setup_url": None,
    }


async def test_a_blip_is_not_told(server: AuthorizationServer, webhook: Webhook, tmp_path: Path) -> None:
    async with notifying(server, tmp_path, webhook=webhook.url, after=600) as (site, notifier):
        notifier.start()
        await eventually(lambda: notifier._alarm._began is not None, what="it sees the trouble")
        await site.set_up()

    assert webhook.requests == []
    assert site.events("notify.sent") == []


async def test_no_page_leads_to_setup_where_no_browser_can_go(
    server: AuthorizationServer, webhook: Webhook, tmp_path: Path
) -> None:
    async with setup_site(server.url, tmp_path, redirect_uri="https://elsewhere.example/back") as site:
        assert notifier_of(site)._setup_url is None
        assert notifier_of(site, "http://[::1]:1")._setup_url == "http://[::1]:1/setup"


async def test_a_webhook_that_fails_is_tried_again(
    server: AuthorizationServer, webhook: Webhook, tmp_path: Path
) -> None:
    webhook.script.extend((500, 429))
    async with notifying(server, tmp_path, webhook=webhook.url) as (site, notifier):
        notifier.start()
        await outcome(site, "notify.sent")

    assert len(webhook.requests) == 3
    assert len(webhook.messages) == 1
    assert [event["reason"] for event in site.events("notify.failed")] == ["status 500", "status 429"]
    assert site.events("notify.given_up") == []


@pytest.mark.parametrize("status", [500, 404, 302, 307])
async def test_a_webhook_that_goes_on_failing_or_redirects_is_given_up_with_one_warning(
    server: AuthorizationServer, webhook: Webhook, tmp_path: Path, status: int
) -> None:
    webhook.script.extend([status] * 3)
    async with notifying(server, tmp_path, webhook=webhook.url) as (site, notifier):
        notifier.start()
        event = await outcome(site, "notify.given_up")

    assert len(webhook.requests) == 3
    assert (event["level"], event["way"], event["reason"]) == ("warning", "webhook", f"status {status}")
    assert (await outcome(site, "notify.failed"))["place"] == "http://127.0.0.1"
    assert "secret-path" not in str(site.events())


async def test_a_webhook_that_hangs_keeps_nothing_waiting_but_its_message(
    server: AuthorizationServer, webhook: Webhook, script: Callable[[str], str], tmp_path: Path
) -> None:
    webhook.script.extend([HANG] * 3)
    async with notifying(server, tmp_path, webhook=webhook.url, command=script(":")) as (site, notifier):
        notifier.start()
        assert (await outcome(site, "notify.sent"))["way"] == "command"


async def test_a_webhook_that_hangs_is_given_up(server: AuthorizationServer, webhook: Webhook, tmp_path: Path) -> None:
    webhook.script.extend([HANG] * 3)
    async with notifying(server, tmp_path, webhook=webhook.url, timeout=0.05) as (site, notifier):
        notifier.start()
        assert (await outcome(site, "notify.given_up"))["reason"] == "no answer within 0.05 seconds"
        # What comes later is told all the same; the problem may have arrived.
        webhook.script.clear()
        notifier._timeout = 20
        await site.set_up()
        await eventually(lambda: webhook.messages)

    assert webhook.messages[-1]["event"] == "recovered"


async def test_a_webhook_that_is_not_there_is_named_by_nothing_but_its_error(
    server: AuthorizationServer, webhook: Webhook, tmp_path: Path
) -> None:
    url = "http://127.0.0.1:1/secret-path"
    async with notifying(server, tmp_path, webhook=url) as (site, notifier):
        notifier.start()
        event = await outcome(site, "notify.failed")

    assert (event["reason"], event["place"]) == ("no connection", "http://127.0.0.1")
    assert "secret-path" not in str(site.events())


@pytest.mark.parametrize(("trusted", "event"), [(True, "notify.sent"), (False, "notify.failed")])
async def test_a_webhook_may_have_a_certificate_of_an_authority_that_is_trusted(
    server: AuthorizationServer, tmp_path: Path, trusted: bool, event: str
) -> None:
    authority = Authority(tmp_path)
    upstream = {"ca_file": authority.ca_file if trusted else None}
    async with (
        Webhook(authority.server("127.0.0.1")) as webhook,
        notifying(server, tmp_path, webhook=webhook.url, upstream=upstream) as (site, notifier),
    ):
        notifier.start()
        await outcome(site, event)

    assert len(webhook.messages) == trusted


async def test_a_webhook_beyond_this_computer_is_reached_through_the_corporate_proxy(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    asked = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0])
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    proxy = await asyncio.start_server(refuse, "127.0.0.1", 0)
    upstream = {"proxy": f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"}
    async with (
        proxy,
        notifying(server, tmp_path, webhook="https://alerts.example/", upstream=upstream) as (
            site,
            notifier,
        ),
    ):
        notifier.start()
        event = await outcome(site, "notify.given_up")

    assert event["reason"] == "the forward proxy refused the connection"
    assert asked == [b"CONNECT alerts.example:443 HTTP/1.1"] * 3


async def test_a_webhook_on_this_computer_is_not(server: AuthorizationServer, webhook: Webhook, tmp_path: Path) -> None:
    upstream = {"proxy": "http://127.0.0.1:1"}
    async with notifying(server, tmp_path, webhook=webhook.url, upstream=upstream) as (_, notifier):
        notifier.start()
        await eventually(lambda: webhook.messages)


async def test_a_command_gets_the_message_and_no_shell_and_no_secret(
    server: AuthorizationServer, script: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KREBIT_PROXY_CLIENT_SECRET", "marker-client-secret")
    monkeypatch.setenv("PGPASSWORD", "marker-password")
    monkeypatch.setenv("SOME_TOKEN", "marker-token")
    monkeypatch.setenv("TZ", "Europe/Stockholm")
    command = script('cat > told; env > environment; printf %s "$1" > argument; echo out; echo err >&2')
    async with notifying(server, tmp_path, command=command) as (site, notifier):
        notifier.start()
        await outcome(site, "notify.sent")

    assert json.loads((tmp_path / "told").read_text())["code"] == "setup_required"
    assert (tmp_path / "argument").read_text() == "$HOME; x"
    environment = (tmp_path / "environment").read_text().splitlines()
    ours = {line for line in environment if line.startswith("KREBIT_PROXY_")}
    assert ours == {"KREBIT_PROXY_EVENT=problem"}
    assert {"TZ=Europe/Stockholm", f"PATH={os.environ['PATH']}"} <= set(environment)
    assert not [line for line in environment if "marker" in line]


async def test_a_command_that_fails_is_tried_again_with_one_warning(
    server: AuthorizationServer, script: Callable[[str], str], tmp_path: Path
) -> None:
    # It does not even read its input.
    async with notifying(server, tmp_path, command=script("echo run >> runs; exit 3")) as (site, notifier):
        notifier.start()
        await outcome(site, "notify.given_up")

    [event] = site.events("notify.failed")
    assert (event["level"], event["way"], event["reason"]) == ("warning", "command", "exit status 3")
    assert (tmp_path / "runs").read_text() == "run\n" * 3


async def test_a_command_that_is_late_is_a_failure(
    server: AuthorizationServer, script: Callable[[str], str], tmp_path: Path
) -> None:
    async with notifying(server, tmp_path, command=script("sleep 1000"), timeout=0.1) as (site, notifier):
        notifier.start()
        event = await outcome(site, "notify.failed")

    assert event["reason"] == "no answer within 0.1 seconds"


async def test_a_stop_kills_the_command_and_all_that_it_has_started(
    server: AuthorizationServer, script: Callable[[str], str], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "life")
    command = script("exec 3> life; echo started >&3; sleep 1000 & wait")
    async with notifying(server, tmp_path, command=command) as (site, notifier):
        notifier.start()
        life = await asyncio.to_thread((tmp_path / "life").open)
        with life:
            assert await asyncio.to_thread(life.readline) == "started\n"
            await notifier.close()
            # It ends when nobody holds its other end any more.
            assert await asyncio.to_thread(life.read) == ""

    assert site.events("notify.sent") + site.events("notify.failed") == []


async def test_a_command_that_is_not_there_is_told_of_at_once(server: AuthorizationServer, tmp_path: Path) -> None:
    async with notifying(server, tmp_path, command="no-such-program --now", after=600) as (site, notifier):
        notifier.start()
        event = await outcome(site, "notify.failed")

    assert event["reason"] == "there is no such program"


def expires(site: Site, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Lets the alarm see an authorization that ends so soon, whatever is renewed."""
    ends = grant_status(refresh_token_expires_at=time.time() + seconds, refresh_token_end_is_fixed=True)
    monkeypatch.setattr(site.credentials, "status", lambda: ends)


async def test_the_end_of_an_authorization_is_told_before_it_comes(
    server: AuthorizationServer, webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with notifying(server, tmp_path, webhook=webhook.url) as (site, notifier):
        expires(site, monkeypatch, 5 * 86400)
        notifier.start()
        await eventually(lambda: webhook.messages)
        expires(site, monkeypatch, 0.9 * 86400)
        await eventually(lambda: len(webhook.messages) == 2)

    week, day = webhook.messages
    assert (week["event"], week["code"]) == ("expiring", None)
    assert re.match(r"The authorization ends on \w+day \d+ \w+ 20\d\d, \d\d:\d\d \w+, in 5 days\.", week["detail"])
    assert week["text"].endswith(f"authorize again before then: http://localhost:{site.port}/setup")
    assert "in 22 hours" in day["text"]


async def test_an_answer_is_in_the_log_without_any_part_of_the_url(
    server: AuthorizationServer, webhook: Webhook, tmp_path: Path
) -> None:
    webhook.script.append(404)
    webhook.words = "<html><title>404 Not\nFound</title><p>/secret-path?key=s3cret-value is not here" + "." * 999
    url = webhook.url + "?key=s3cret-value"
    async with notifying(server, tmp_path, webhook=url) as (site, notifier):
        notifier.start()
        event = await outcome(site, "notify.failed")

    assert event["answer"].startswith("404 Not Found ***?*** is not here....")
    assert len(event["answer"]) == 120
    assert "secret" not in str(site.events())
    assert "s3cret" not in str(site.events())


async def test_a_webhook_that_breaks_off_may_have_taken_the_message(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    broken = await asyncio.start_server(close, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{broken.sockets[0].getsockname()[1]}/"
    async with broken, notifying(server, tmp_path, webhook=url) as (site, notifier):
        notifier.start()
        event = await outcome(site, "notify.failed")
        await outcome(site, "notify.given_up")
        await site.set_up()
        await eventually(lambda: site.events("notify.given_up")[1:])

    assert event["reason"] == "the connection broke off"
    assert [event["message"] for event in site.events("notify.given_up")] == ["problem", "recovered"]


async def test_tries_are_counted_and_the_last_one_is_kept(
    server: AuthorizationServer, webhook: Webhook, tmp_path: Path
) -> None:
    webhook.script.append(500)
    async with notifying(server, tmp_path, webhook=webhook.url) as (site, notifier):
        notifier.start()
        await outcome(site, "notify.sent")
        text = notifier._metrics.render(site.credentials.status()).decode()

    last = notifier._deliveries["webhook"]
    assert (last.event, last.accepted, last.said) == ("problem", True, "status 204")
    for result in ("failed", "sent"):
        assert f'krebit_proxy_notifications_total{{outcome="{result}",way="webhook"}} 1.0' in text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://hooks.slack.com/services/T0/B0/xyz", "https://hooks.slack.com"),
        ("https://me:secret@[::1]:8443/x?key=secret", "https://[::1]"),
    ],
)
def test_of_a_webhook_only_scheme_and_host_are_shown(url: str, expected: str) -> None:
    assert shown(url) == expected
