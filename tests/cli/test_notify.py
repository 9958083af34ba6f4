"""`krebit-proxy notify test`: what a person sees of each way, and what arrives."""

import json
import os
import signal
from pathlib import Path

from tests.fakes.chat import Chat
from tests.fakes.command import run, write_settings

TICK, CROSS = "\N{CHECK MARK}", "\N{BALLOT X}"


def program(folder: Path, lines: str) -> str:
    path = folder / "tell"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o700)
    return f"{path} secret-argument"


async def test_each_way_gets_one_message_and_says_that_it_took_it(tmp_path: Path) -> None:
    async with Chat() as chat:
        command = program(tmp_path, f"cat > {tmp_path}/told; echo told everybody")
        write_settings(tmp_path, notify={"webhook": chat.url, "command": command})
        finished = await run("notify", "test", folder=tmp_path)

    assert finished.status == 0, finished.err
    assert finished.out.splitlines() == [
        f"{TICK} webhook http://127.0.0.1: accepted, status 200: ok",
        f"{TICK} command {tmp_path}/tell: accepted, exit status 0: told everybody",
    ]
    [message] = chat.messages
    assert message == json.loads((tmp_path / "told").read_text()) | {"since": message["since"]}
    assert (message["event"], message["code"], message["setup_url"]) == ("test", None, None)
    assert message["text"].startswith("krebit-proxy at acme: This is a test message.")


async def test_a_way_that_refuses_says_so_in_its_own_words_and_without_the_secret(tmp_path: Path) -> None:
    async with Chat() as chat:
        chat.gone = True
        command = program(tmp_path, "printf 'no \\033[31mroute\\nto %s' host >&2; exit 3")
        write_settings(tmp_path, notify={"webhook": chat.url, "command": command})
        finished = await run("notify", "test", folder=tmp_path)

    assert finished.status == 1
    assert finished.out.splitlines() == [
        f"{CROSS} webhook http://127.0.0.1: not accepted, status 404: no_service at ***",
        "    check notify.webhook, then try again",
        f"{CROSS} command {tmp_path}/tell: not accepted, exit status 3: no [31mroute to host",
        "    check notify.command, then try again",
    ]
    assert "secret" not in finished.out + finished.err


async def test_one_way_that_refuses_is_a_failure(tmp_path: Path) -> None:
    async with Chat() as chat:
        write_settings(tmp_path, notify={"webhook": chat.url, "command": "no-such-program"})
        finished = await run("notify", "test", folder=tmp_path)

    assert finished.status == 1
    assert finished.out.startswith(TICK)
    assert f"{CROSS} command no-such-program: not accepted, there is no such program" in finished.out


async def test_a_host_that_does_not_answer(tmp_path: Path) -> None:
    write_settings(tmp_path, notify={"webhook": "http://127.0.0.1:1/secret-hook"})
    finished = await run("notify", "test", folder=tmp_path)

    assert finished.status == 1
    assert finished.out.startswith(f"{CROSS} webhook http://127.0.0.1: not accepted, no connection\n")
    assert "secret" not in finished.out + finished.err


async def test_without_any_way_it_says_what_to_set(tmp_path: Path) -> None:
    write_settings(tmp_path)
    finished = await run("notify", "test", folder=tmp_path)

    assert (finished.status, finished.out) == (2, "")
    assert finished.err.splitlines() == [
        "krebit-proxy: neither notify.webhook nor notify.command is set",
        "what to do: set notify.webhook to a URL, notify.command to a program, or both",
    ]


async def test_a_program_that_leaves_a_child_behind_is_not_waited_for(tmp_path: Path) -> None:
    write_settings(tmp_path, notify={"command": program(tmp_path, "sleep 1000 & echo $! > child; echo started")})
    finished = await run("notify", "test", folder=tmp_path)

    assert finished.out.endswith("accepted, exit status 0: started\n")
    os.kill(int((tmp_path / "child").read_text()), signal.SIGTERM)
