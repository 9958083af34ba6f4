import asyncio
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector, web

from krebit_proxy.core.grant import Grant, Tokens
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.setup_key import KEY_LIFETIME, mint_key
from krebit_proxy.stores import open_store
from tests.fakes.authorization_server import HANG, AuthorizationServer
from tests.fakes.setup_site import CLIENT_SECRET, Answer, Site, setup_site
from tests.fakes.waiting import DEADLINE, eventually

FRONT_PROXY = {"X-Forwarded-For": "203.0.113.7"}


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[AuthorizationServer]:
    async with AuthorizationServer() as server:
        yield server


@pytest.fixture(name="site")
async def _site(server: AuthorizationServer, tmp_path: Path) -> AsyncIterator[Site]:
    async with setup_site(server.url, tmp_path) as site:
        yield site


def key(site: Site, *, age: float = 0, secret: Secret = CLIENT_SECRET) -> str:
    return mint_key(secret, term=site.setup.term(), now=time.time() - age, nonce=secrets.token_bytes(16))


def words(answer: Answer) -> str:
    """What a person reads on a page."""
    body = re.sub(r"<style.*?</style>", "", answer.text, flags=re.DOTALL)
    return unescape(" ".join(re.sub(r"<[^>]+>", "", body).split()))


# Starting


async def test_setup_sends_the_browser_to_the_authorization_endpoint_at_once(
    site: Site, server: AuthorizationServer
) -> None:
    answer = await site.start()

    assert answer.status == 303
    assert answer.location.startswith(f"{server.url}/oauth/authorize?")
    assert answer.query["redirect_uri"] == f"http://localhost:{site.port}/setup/callback"
    assert answer.query["client_id"] == "my-app"
    assert answer.query["code_challenge_method"] == "S256"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


async def test_the_cookie_is_for_this_browser_and_comes_back_after_the_redirect(site: Site) -> None:
    (cookie,) = (await site.start()).cookies

    assert re.fullmatch(
        r"krebit-proxy-setup-[0-9a-f]{8}=[\w-]{43}; Path=/setup; Max-Age=600; HttpOnly; SameSite=Lax", cookie
    )


async def test_the_cookie_also_reaches_a_redirection_endpoint_elsewhere(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    async with setup_site(server.url, tmp_path, redirect_uri="http://localhost:PORT/oauth/cb") as site:
        answer = await site.start()
        paths = [re.findall("Path=([^;]+)", cookie)[0] for cookie in answer.cookies]
        done = await site.ask(f"/oauth/cb?code=good-code&state={answer.query['state']}")

    assert paths == ["/oauth/cb", "/setup"]
    assert done.location == "/setup/done"


async def test_the_cookie_is_secure_where_the_redirect_uri_is_https(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    uri, access = "https://proxy.example/setup/callback", {"allowed_hosts": ["proxy.example"]}
    async with setup_site(server.url, tmp_path, redirect_uri=uri, access=access) as site:
        answer = await site.ask("/setup", host="proxy.example")

    assert answer.cookies[0].endswith("; Secure")


async def test_a_browser_on_another_origin_goes_to_that_of_the_redirect_uri_first(site: Site) -> None:
    answer = await site.ask("/setup", host=f"127.0.0.1:{site.port}")

    assert answer.status == 303
    assert answer.location == f"http://localhost:{site.port}/setup?moved=1"
    assert not answer.cookies
    assert not site.events("setup.started")


async def test_a_front_proxy_that_changes_host_does_not_send_the_browser_in_circles(site: Site) -> None:
    answer = await site.start("/setup?moved=1", host=f"127.0.0.1:{site.port}")

    assert "/oauth/authorize?" in answer.location


async def test_a_redirect_uri_that_leads_elsewhere_means_pasting(server: AuthorizationServer, tmp_path: Path) -> None:
    async with setup_site(server.url, tmp_path, redirect_uri="https://old.example/cb") as site:
        one_time = key(site)
        answer = await site.ask("/setup")
        with_key = await site.ask(f"/setup?key={one_time}", fields=FRONT_PROXY)

        assert answer.location == "/setup/paste"
        assert with_key.location == f"/setup/paste?key={one_time}"
        assert "/cb" not in site.pages


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("HEAD", {}),
        ("POST", {}),
        ("GET", {"Sec-Purpose": "prefetch;prerender"}),
        ("GET", {"Purpose": "prefetch"}),
        ("GET", {"Sec-Fetch-Dest": "iframe"}),
        ("GET", {"Sec-Fetch-Dest": "empty"}),
    ],
)
async def test_only_a_page_that_a_person_opens_starts_or_ends_an_attempt(
    site: Site, server: AuthorizationServer, method: str, fields: dict[str, str]
) -> None:
    early = await site.ask("/setup", method, fields=fields)
    state = (await site.start()).query["state"]
    back = await site.ask(f"/setup/callback?code=good-code&state={state}", method, fields=fields)

    assert {early.status, back.status} <= {400, 405}
    assert not early.cookies
    assert not server.requests
    assert (await site.come_back(state)).location == "/setup/done"


async def test_setup_that_is_done_says_how_to_open_it_again(site: Site) -> None:
    await site.set_up()
    answer = await site.ask("/setup")

    assert answer.status == 410
    assert answer.headers["X-Krebit-Proxy-Error"] == "setup_closed"
    assert "Run krebit-proxy setup" in words(answer)
    assert site.events("setup.refused")[-1]["code"] == "setup_closed"


# One-time keys


async def test_from_another_computer_setup_needs_a_key_which_works_once(site: Site) -> None:
    one_time = key(site)
    without = await site.ask("/setup", fields=FRONT_PROXY)
    first = await site.ask(f"/setup?key={one_time}", fields=FRONT_PROXY)
    second = await site.ask(f"/setup?key={one_time}", fields=FRONT_PROXY)

    assert (without.status, first.status, second.status) == (403, 303, 403)
    assert "Run krebit-proxy setup" in words(without)
    assert "used before" in words(second)


async def test_an_ipv4_address_in_the_clothes_of_ipv6_is_this_computer_too(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    async with setup_site(server.url, tmp_path, listener=listener) as site:
        answer = await site.start()
        (event,) = site.events("setup.started")

    assert answer.status == 303
    assert event["peer"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("redirect_uri", "origin"),
    [("http://localhost:PORT/setup/callback", "http://localhost:PORT"), ("https://old.example/cb", None)],
)
async def test_behind_a_unix_socket_may_be_anybody(
    server: AuthorizationServer, tmp_path: Path, redirect_uri: str, origin: str | None
) -> None:
    path = tmp_path / "a socket"
    async with setup_site(server.url, tmp_path, redirect_uri=redirect_uri) as site:
        runner = web.ServerRunner(web.Server(site.serve, access_log=None))
        await runner.setup()
        await web.UnixSite(runner, path).start()
        async with ClientSession(connector=UnixConnector(str(path))) as session:
            async with session.get("http://localhost/setup") as answer:
                assert answer.status == 403
            async with session.get("http://localhost/", headers={"Accept": "application/json"}) as answer:
                document = await answer.json()
        await runner.cleanup()
        (event,) = site.events("setup.refused")
        own = origin.replace("PORT", str(site.port)) if origin else None

    assert event["peer"] == "unix socket"
    assert event.get("open", "").partition("/setup?key=")[0] == (own or "")
    assert document["setup_url"] == (f"{own}/setup" if own else None)
    assert document["example"] == f"curl --unix-socket '{path}' http://localhost/api/"


@pytest.mark.parametrize("host", ["evil.example", "localhost:6666", "127.0.0.1:6666"])
async def test_the_link_in_the_log_goes_where_the_proxy_is_and_not_where_a_request_says(
    server: AuthorizationServer, tmp_path: Path, host: str
) -> None:
    async with setup_site(server.url, tmp_path, redirect_uri="https://old.example/cb") as site:
        site.setup.announce("http://192.0.2.1:8321")
        await site.ask("/setup", fields={**FRONT_PROXY, "Host": host, "X-Forwarded-Host": "evil.example"})
        (event,) = site.events("setup.refused")

    assert event["open"].startswith("http://192.0.2.1:8321/setup?key=")


async def test_who_reads_the_log_gets_the_key_that_was_missing(site: Site) -> None:
    await site.ask("/setup", fields=FRONT_PROXY)
    (event,) = site.events("setup.refused")
    link = event["open"].partition(f"http://localhost:{site.port}")[2]

    assert event["peer"] == "127.0.0.1"
    assert (await site.ask(link, fields=FRONT_PROXY)).status == 303


async def test_a_key_that_is_none_opens_nothing(site: Site) -> None:
    keys = {
        "garbage": "x",
        "too old": key(site, age=KEY_LIFETIME),
        "of another": key(site, secret=Secret("other")),
        "none": "",
    }
    for bad in keys.values():
        assert (await site.ask(f"/setup?key={bad}", fields=FRONT_PROXY)).status == 403
    await site.set_up()
    for bad in keys.values():
        assert (await site.ask(f"/setup?key={bad}")).status == 410


async def test_a_key_that_was_used_stays_used_after_a_restart(server: AuthorizationServer, tmp_path: Path) -> None:
    async with setup_site(server.url, tmp_path) as site:
        one_time, unused = key(site), key(site)
        assert (await site.ask(f"/setup?key={one_time}", fields=FRONT_PROXY)).status == 303
    async with setup_site(server.url, tmp_path) as site:
        for old in (one_time, unused):
            assert (await site.ask(f"/setup?key={old}", fields=FRONT_PROXY)).status == 403
        assert (await site.ask(f"/setup?key={key(site)}", fields=FRONT_PROXY)).status == 303


async def test_a_key_opens_setup_again_and_comes_along_to_the_origin_that_the_browser_returns_to(site: Site) -> None:
    await site.set_up()
    moved = await site.ask(f"/setup?key={key(site)}", host=f"127.0.0.1:{site.port}")
    answer = await site.start(moved.location.removeprefix(f"http://localhost:{site.port}"))
    done = await site.come_back(answer.query["state"])

    assert done.location == "/setup/done"
    assert [event["generation"] for event in site.events("setup.completed")] == [1, 2]


async def test_all_other_keys_end_with_the_success_of_one(site: Site) -> None:
    used, other, unused = key(site), key(site), key(site)
    first = await site.start(f"/setup?key={used}", fields=FRONT_PROXY)
    assert (await site.come_back(first.query["state"])).location == "/setup/done"

    for old in (used, other, unused):
        assert (await site.ask(f"/setup?key={old}", cookie="")).status == 410
        assert (await site.ask(f"/setup/paste?key={old}")).status == 410
    assert (await site.ask(f"/setup?key={key(site)}", fields=FRONT_PROXY)).status == 303


async def test_keys_end_with_a_success_without_a_key_and_with_a_logout(site: Site) -> None:
    old = key(site)
    await site.set_up()
    assert (await site.ask(f"/setup?key={old}", fields=FRONT_PROXY)).status == 410
    old = key(site)
    await site.credentials.logout()
    assert (await site.ask(f"/setup?key={old}", fields=FRONT_PROXY)).status == 403
    assert (await site.ask(f"/setup?key={key(site)}", fields=FRONT_PROXY)).status == 303


async def test_keys_and_attempts_end_when_another_process_is_authorized(site: Site) -> None:
    old = key(site)
    begun = await site.start(f"/setup?key={key(site)}", fields=FRONT_PROXY)
    tokens = Tokens(Secret("a"), Secret("r"), time.time(), time.time() + 3600)
    store = open_store(site.settings)
    await store.write(0, Grant(1, "acme", "my-app", tokens, authorized_at=time.time()))
    await store.close()
    await eventually(lambda: site.credentials.status().ready, what="the proxy finds the grant")

    assert (await site.ask(f"/setup?key={old}", cookie="", fields=FRONT_PROXY)).status == 410
    assert (await site.start(fields=FRONT_PROXY)).status == 410
    assert (await site.come_back(begun.query["state"])).status == 400
    assert not site.events("setup.completed")


async def test_a_renewal_ends_no_key(site: Site) -> None:
    await site.set_up()
    unused = key(site)
    store = open_store(site.settings)
    stored = await store.read()
    assert stored is not None
    await store.write(1, replace(stored, generation=2))
    await store.close()
    await eventually(lambda: site.credentials.status().generation == 2, what="the proxy finds the new tokens")

    assert (await site.ask(f"/setup?key={unused}", fields=FRONT_PROXY)).status == 303


async def test_the_browser_that_brought_a_key_may_try_again_and_no_other_may(site: Site) -> None:
    one_time = key(site)
    first = await site.start(f"/setup?key={one_time}", fields=FRONT_PROXY)
    denied = await site.come_back(first.query["state"], code="", error="access_denied")
    other = await site.ask("/setup", cookie="", fields=FRONT_PROXY)
    again = await site.start(f"/setup?key={one_time}", fields=FRONT_PROXY)
    done = await site.come_back(again.query["state"])
    closed = await site.ask("/setup", fields=FRONT_PROXY)

    assert (denied.status, other.status, again.status, closed.status) == (400, 403, 303, 410)
    assert done.location == "/setup/done"


async def test_the_browser_that_brought_a_key_may_not_try_for_longer_than_the_key_is_good(site: Site) -> None:
    one_time = key(site, age=KEY_LIFETIME - 2)  # a second is left, or two
    first = await site.start(f"/setup?key={one_time}", fields=FRONT_PROXY)
    async with asyncio.timeout(DEADLINE):
        while (again := await site.start(fields=FRONT_PROXY)).status == 303:  # by the wall clock
            await asyncio.sleep(0.05)

    assert (first.status, again.status) == (303, 403)


# Coming back


async def test_the_code_is_exchanged_with_the_verifier_and_the_tokens_are_stored(
    site: Site, server: AuthorizationServer
) -> None:
    await site.set_up()
    (request,) = server.requests
    (event,) = site.events("setup.completed")

    assert request.form["code"] == "good-code"
    assert len(request.form["code_verifier"]) == 43
    assert request.form["redirect_uri"] == site.settings.redirect_uri
    assert site.credentials.status().ready
    assert (event["organization"], event["generation"], event["peer"]) == ("acme", 1, "127.0.0.1")


async def test_what_is_odd_about_the_tokens_is_in_the_log_too(site: Site, server: AuthorizationServer) -> None:
    server.script.append((200, '{"access_token": "access-1"}', {}))
    await site.set_up()
    texts = [event["text"] for event in site.events("setup.caution") if event["level"] == "warning"]

    assert len(texts) == 3
    for missing in ("token_type", "expires_in", "refresh token"):
        assert any(missing in text for text in texts)


async def test_an_issuer_that_nothing_hangs_on_is_ignored_and_that_is_said_once(site: Site) -> None:
    state = (await site.start()).query["state"]
    for _ in range(2):
        assert (await site.come_back(state, iss="https://another.example")).location == "/setup/done"

    assert len(site.events("setup.issuer_ignored")) == 1


async def test_an_answer_without_the_cookie_is_refused_and_spends_no_code(
    site: Site, server: AuthorizationServer
) -> None:
    state = (await site.start()).query["state"]
    answer = await site.ask(f"/setup/callback?code=good-code&state={state}", cookie="")

    assert answer.status == 400
    assert "Another browser" in words(answer)
    assert not server.requests
    assert (await site.come_back(state)).location == "/setup/done"


@pytest.mark.parametrize(
    "query",
    [
        "code=x&state=wrong",
        "error=access_denied",
        "error=access_denied&state=wrong",
        "code=x",
        "",
        "state=STATE",
        "code=a&code=b&state=STATE",
        "code=a&error=b&state=STATE",
        "code=a&state=STATE&state=STATE",
    ],
)
async def test_nobody_ends_an_attempt_with_a_made_up_answer(
    site: Site, server: AuthorizationServer, query: str
) -> None:
    state = (await site.start()).query["state"]
    answer = await site.ask(f"/setup/callback?{query.replace('STATE', state)}")

    assert answer.status == 400
    assert not server.requests
    assert (await site.come_back(state)).location == "/setup/done"


async def test_a_new_attempt_ends_the_older_one(site: Site, server: AuthorizationServer) -> None:
    older = (await site.start()).query["state"]
    newer = (await site.start()).query["state"]

    assert (await site.come_back(older)).status == 400
    assert not server.requests
    assert (await site.come_back(newer)).location == "/setup/done"


async def test_a_double_click_makes_one_token_request_and_both_see_its_end(
    site: Site, server: AuthorizationServer
) -> None:
    server.script.append(HANG)
    state = (await site.start()).query["state"]
    clicks = asyncio.gather(site.come_back(state), site.come_back(state))
    await server.asked(1)
    server.release()

    assert [answer.location for answer in await clicks] == ["/setup/done", "/setup/done"]
    assert (await site.come_back(state)).location == "/setup/done"  # a reload
    assert len(server.requests) == 1


async def test_a_reload_after_a_failure_shows_it_again_without_a_token_request(
    site: Site, server: AuthorizationServer
) -> None:
    state = (await site.start()).query["state"]
    first = await site.come_back(state, code="bad-code")
    second = await site.come_back(state, code="bad-code")

    assert words(first) == words(second)
    assert len(server.requests) == 1


async def test_a_browser_that_leaves_does_not_lose_the_tokens(site: Site, server: AuthorizationServer) -> None:
    server.script.append(HANG)
    state = (await site.start()).query["state"]
    leaving = asyncio.ensure_future(site.come_back(state))
    await server.asked(1)
    leaving.cancel()
    server.release()
    await site.setup.close()

    assert site.credentials.status().ready


async def test_what_was_not_allowed_is_said_in_words_that_cannot_be_markup(site: Site) -> None:
    state = (await site.start()).query["state"]
    answer = await site.come_back(
        state, code="", error="access_denied", error_description="<script>alert(1)</script>" + "x" * 999
    )

    assert answer.status == 400
    assert "<script" not in answer.text
    assert "The authorization was denied at Krebit. It said: access_denied: <script>alert(1)</script>" in words(answer)
    assert "x" * 301 not in answer.text
    assert site.events("setup.refused")[-1]["reason"].startswith("The authorization was denied")


@pytest.mark.parametrize(
    ("status", "content", "expected"),
    [
        (401, '{"error": "invalid_client"}', "Compare client_id and client_secret with the app"),
        (400, '{"error": "invalid_grant"}', "exactly this redirect URI: http://localhost:"),
        (500, "<h1>oops</h1>", "HTTP status 500"),
        (200, "<h1>login</h1>", "no usable response"),
        (429, "", "HTTP status 429"),
    ],
)
async def test_a_token_request_that_fails_says_what_to_do_and_setup_stays_open(
    site: Site, server: AuthorizationServer, status: int, content: str, expected: str
) -> None:
    server.script.append((status, content, {}))
    answer = await site.come_back((await site.start()).query["state"])

    assert answer.status == 400
    assert expected in words(answer)
    assert (await site.start()).status == 303
    assert len(server.requests) == 1


async def test_a_store_that_cannot_be_written_is_told(site: Site, tmp_path: Path) -> None:
    (tmp_path / "grant").write_text("in the way")
    answer = await site.come_back((await site.start()).query["state"])

    assert answer.status == 503
    assert "The proxy cannot use its store. The reason is in the log" in words(answer)
    assert str(tmp_path) not in answer.text
    assert str(tmp_path) in repr(site.events("grant.store_failed"))


async def test_a_store_that_cannot_be_read_is_not_taken_for_a_setup_that_is_done(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    (tmp_path / "grant").write_text("in the way")
    async with setup_site(server.url, tmp_path) as site:
        answer = await site.ask("/setup")
    assert answer.status == 410
    assert "may be done" in words(answer)
    assert "See the status page /" in words(answer)


async def test_no_part_of_the_answers_query_is_logged(site: Site) -> None:
    state = (await site.start()).query["state"]
    await site.come_back("marker-wrong-state", code="marker-code")
    await site.come_back(state, code="marker-code")
    text = repr(site.events())

    assert "marker" not in text
    assert state not in text


# After success


async def test_done_shows_for_whom_until_when_and_how_to_call(site: Site) -> None:
    await site.set_up()
    answer = await site.ask("/setup/done")
    text = words(answer)

    assert answer.status == 200
    assert "Connected to acme" in text
    assert "my-app" in text
    assert f"curl http://localhost:{site.port}/api/" in text
    assert re.search(r"expires .*\d\d:\d\d .*, in \d+ minutes", text)
    assert "refresh token" not in text


async def test_done_warns_where_access_will_stop(site: Site, server: AuthorizationServer) -> None:
    server.rotates = False
    await site.set_up()
    text = words(await site.ask("/setup/done"))

    assert re.search(r"no refresh token: access will stop at .*\d\d:\d\d", text)


async def test_done_before_it_is_done_is_the_status_page(site: Site) -> None:
    assert (await site.ask("/setup/done")).location == "/"


# Pasting


async def test_a_pasted_address_is_taken_like_a_redirect(server: AuthorizationServer, tmp_path: Path) -> None:
    async with setup_site(server.url, tmp_path, redirect_uri="https://old.example/cb?x=1") as site:
        shown = await site.start("/setup/paste")
        link = unescape(re.findall(r'href="(http[^"]*authorize[^"]*)"', shown.text)[0])
        state = re.findall(r"state=([\w-]+)", link)[0]
        pasted = {"address": f" https://old.example/cb?x=1&code=good-code&state={state}#_=_ "}
        answer = await site.ask("/setup/paste", "POST", data=pasted)

        assert "https://old.example/cb?x=1" in words(shown)
        assert answer.location == "/setup/done"
        assert server.requests[0].form["redirect_uri"] == "https://old.example/cb?x=1"


async def test_pasting_works_for_a_redirect_uri_that_should_lead_here_too(site: Site) -> None:
    state = re.findall(r"state=([\w-]+)", (await site.start("/setup/paste")).text)[0]
    answer = await site.ask("/setup/paste", "POST", data={"address": f"code=good-code&state={state}"})

    assert answer.location == "/setup/done"


async def test_a_reload_of_the_paste_page_keeps_the_link_that_may_be_open_already(site: Site) -> None:
    first = await site.start("/setup/paste")
    second = await site.start("/setup/paste")
    other = await site.ask("/setup/paste", cookie="")
    states = [re.findall(r"state=([\w-]+)", answer.text)[0] for answer in (first, second, other)]

    assert states[0] == states[1] != states[2]


async def test_a_wrong_address_is_explained_on_the_page_and_can_be_corrected(
    site: Site, server: AuthorizationServer
) -> None:
    shown = await site.start("/setup/paste")
    state = re.findall(r"state=([\w-]+)", shown.text)[0]
    wrong = await site.ask("/setup/paste", "POST", data={"address": "https://acme.krebit.se/oauth/authorize?x=1"})
    empty = await site.ask("/setup/paste", "POST", data={})
    right = await site.ask("/setup/paste", "POST", data={"address": f"?code=good-code&state={state}"})

    assert (wrong.status, empty.status) == (400, 400)
    assert "The address has no code." in words(wrong)
    assert wrong.headers["X-Krebit-Proxy-Error"] == "setup_failed"
    assert state in wrong.text
    assert right.location == "/setup/done"


async def test_another_browser_cannot_paste(site: Site, server: AuthorizationServer) -> None:
    state = re.findall(r"state=([\w-]+)", (await site.start("/setup/paste")).text)[0]
    data = {"address": f"?code=good-code&state={state}"}
    answer = await site.ask("/setup/paste", "POST", data=data, cookie="")

    assert answer.status == 400
    assert not server.requests


async def test_pasting_needs_a_key_where_starting_does(site: Site) -> None:
    assert (await site.ask("/setup/paste", fields=FRONT_PROXY)).status == 403
    assert (await site.ask(f"/setup/paste?key={key(site)}", fields=FRONT_PROXY)).status == 200
    await site.set_up()
    assert (await site.ask("/setup/paste")).status == 410


async def test_a_paste_beyond_all_measure_is_refused(site: Site) -> None:
    await site.start("/setup/paste")

    assert (await site.ask("/setup/paste", "POST", data={"address": "x" * 20_000})).status == 400


# Beforehand


async def test_the_log_tells_at_start_where_to_go_and_what_to_register(site: Site) -> None:
    site.setup.announce("http://127.0.0.1:1")
    (event,) = site.events("setup.needed")

    assert event["open"] == f"http://localhost:{site.port}/setup"
    assert event["redirect_uri"] == site.settings.redirect_uri


async def test_where_no_browser_gets_to_the_log_tells_how_to_do_without(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    async with setup_site(server.url, tmp_path, redirect_uri="https://old.example/cb") as site:
        site.setup.announce(None)
        (event,) = site.events("setup.needed")

    assert "open" not in event
    assert event["hint"] == "run: krebit-proxy setup --no-browser"


async def test_the_link_in_the_log_has_a_key_where_others_can_reach_the_proxy(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    async with setup_site(server.url, tmp_path, access={"expose": True}) as site:
        site.setup.announce("http://192.0.2.1:8321")
        link = site.events("setup.needed")[0]["open"]

        assert (await site.ask(link.removeprefix(f"http://localhost:{site.port}"), fields=FRONT_PROXY)).status == 303
        await site.set_up()
        site.setup.announce("http://192.0.2.1:8321")
        assert len(site.events("setup.needed")) == 1
