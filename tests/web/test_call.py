import asyncio
import contextlib

import pytest

from krebit_proxy.errors import Refused
from krebit_proxy.tasks import spawn
from krebit_proxy.web.call import NO_CONTENT, Content


async def test_content_is_taken_in_the_pieces_that_it_came_in_unless_they_are_small() -> None:
    content = Content(None, 60)
    large = b"x" * 5000
    for piece in (large, b"ab", b"c", large, b"d"):
        content.feed(piece)
    content.end()

    assert await content.ready()
    assert content.next_size == 5000
    assert [content.take(), content.take(), content.take()] == [large, b"abc" + large, b"d"]
    assert not await content.ready()
    assert content.received == 10_004


async def test_content_without_a_reader_is_dropped() -> None:
    content = Content(None, 60)
    content.feed(b"ab")
    content.drop()
    content.feed(b"c")

    assert (content.size, content.received) == (0, 3)


async def test_a_reader_waits_for_the_next_piece() -> None:
    content = Content(None, 60)
    waiting = spawn(content.ready(), name="reader")
    await asyncio.sleep(0)
    content.feed(b"x")

    assert await waiting


async def test_a_reader_that_is_cancelled_takes_nothing() -> None:
    content = Content(None, 60)
    waiting = spawn(content.ready(), name="reader")
    await asyncio.sleep(0)
    content.feed(b"x")
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting

    assert content.take() == b"x"


async def test_content_is_late_only_while_somebody_waits_for_it() -> None:
    content = Content(None, 10)
    now = asyncio.get_running_loop().time()
    content.expire(now + 100)
    assert content.error is None

    waiting = spawn(content.ready(), name="reader")
    await asyncio.sleep(0)
    content.expire(now + 9)
    assert content.error is None
    content.expire(now + 100)
    with pytest.raises(Refused) as refused:
        await waiting
    assert refused.value.code == "request_timeout"


async def test_no_content_is_complete() -> None:
    assert not await NO_CONTENT.ready()
    assert NO_CONTENT.take_all() == b""


async def test_all_content_that_is_there_can_be_taken_at_once() -> None:
    content = Content(None, 60)
    content.feed(b"ab")
    content.feed(b"c")

    assert (content.take_all(), content.size, content.received) == (b"abc", 0, 3)
