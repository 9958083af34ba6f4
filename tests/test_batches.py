"""Work of one turn of the event loop."""

import asyncio
from typing import Any

from krebit_proxy.batches import ANSWER, RECORD, REPLY, SEND, Batches


async def test_a_turn_takes_one_step_for_all_before_the_next_one() -> None:
    batches, taken = Batches(), list[str]()

    for name in ("a", "b"):
        batches.do(RECORD, taken.append, f"record {name}")
        batches.do(REPLY, taken.append, f"reply {name}")
        batches.do(ANSWER, taken.append, f"answer {name}")
        batches.do(SEND, taken.append, f"send {name}")
    await asyncio.sleep(0)

    assert taken == [f"{step} {name}" for step in ("answer", "send", "reply", "record") for name in ("a", "b")]


async def test_what_work_adds_is_done_too_a_later_step_in_the_same_turn() -> None:
    batches, taken = Batches(), list[str]()

    def answer(name: str) -> None:
        taken.append(name)
        batches.do(ANSWER, taken.append, "answer of the next turn")
        batches.do(SEND, taken.append, "send")

    batches.do(ANSWER, answer, "answer")
    await asyncio.sleep(0)

    assert taken == ["answer", "send"]
    await asyncio.sleep(0)
    assert taken == ["answer", "send", "answer of the next turn"]


async def test_a_fault_is_reported_and_takes_nothing_along() -> None:
    batches, taken, reported = Batches(), list[str](), list[dict[str, Any]]()

    def fail(_name: str) -> None:
        raise ZeroDivisionError

    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))

    batches.do(ANSWER, fail, "this one")
    batches.do(ANSWER, taken.append, "the next one")
    await asyncio.sleep(0)

    assert taken == ["the next one"]
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]
