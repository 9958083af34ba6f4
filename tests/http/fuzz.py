"""Coverage-guided fuzzing of everything that reads bytes of strangers, by atheris (libFuzzer).

    python -m tests.http.fuzz TARGET [SECONDS] [SEED]     # TARGET is one of `TARGETS`

It starts from the inputs in seeds/TARGET.txt, runs for SECONDS (10 if not given), and ends with exit status 0, or with
the first input that breaks a rule. `--keep` writes back all inputs that together reach what was reached, and no more.

The rules are independent of the code under test: bytes mean the same however the network cuts them, nothing but the
declared exceptions is raised, and whatever is accepted reads the same to a strict reader (`tests.fakes.messages`).
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import atheris

with atheris.instrument_imports(include=["krebit_proxy.core", "krebit_proxy.upstream.response", "krebit_proxy.web"]):
    from krebit_proxy.core.access import Rules
    from krebit_proxy.core.fields import withheld
    from krebit_proxy.core.grant import LONGEST_TOKEN
    from krebit_proxy.core.http_answer import AnswerReader
    from krebit_proxy.core.secret import Secret
    from krebit_proxy.core.target import upstream_target
    from krebit_proxy.core.token_answer import read_answer
    from krebit_proxy.core.token_response import Issued
    from krebit_proxy.errors import Refused
    from krebit_proxy.upstream.response import HEAD_LIMIT, InvalidResponse, Response
    from krebit_proxy.web.request_reader import ReaderSettings, RequestReader

from tests.fakes.messages import read_requests
from tests.http.leaving import leaves_api

SEEDS: Final = Path(__file__).parent / "seeds"
LONGEST: Final = 2048  # bytes of an input
_LIMIT: Final = 1024  # bytes of a request's head
_PEER: Final = Rules().peer("127.0.0.1", "127.0.0.1")
_FIELDS_OF_OURS: Final = {b"connection", b"content-length", b"expect", b"host", b"transfer-encoding", b"upgrade"}


def pieces(data: bytes) -> tuple[list[bytes], bytes]:
    """The input, cut at places that its first two bytes choose."""
    cut, data = data[:2], data[2:]
    size = 1 + sum(cut) % 97
    return [data[at : at + size] for at in range(0, len(data), size)], data


class Caller:
    """The part of a connection that a `RequestReader` sees."""

    peer = _PEER

    def resume_content(self) -> None:
        """Nothing was held."""


def requests_of(parts: list[bytes]) -> list[tuple[bytes, bytes, object, bytes, str]]:
    """Method, target, fields, content and fault of each request."""
    reader = RequestReader(cast("Any", Caller()), ReaderSettings(_LIMIT, 1, withheld()))
    read: list[tuple[bytes, bytes, object, bytes, str]] = []
    for part in parts:
        reader.feed(part)
        while reader.held is not None:
            reader.go_on()
    for call in reader.calls:
        request, content = call.request, call.content
        if call.fault is not None:  # how much of it the log shows depends on the cuts
            read.append((b"", b"", (), b"", call.fault.code))
            continue
        error = content.error
        code = error.code if error is not None else "" if content.complete else "open"
        if error is not None:  # how much was read before a fault depends on the cuts
            read.append((b"", b"", (), b"", code))
        else:
            read.append((request.method, request.target, request.head.fields, content.take_all(), code))
    reader.close()
    return read


def request_head(data: bytes) -> None:
    """A connection's requests: the same however they are cut, and each of them one that a strict reader finds."""
    parts, whole = pieces(data)
    read = requests_of([whole])
    assert [one[:4] for one in requests_of(parts)] == [one[:4] for one in read], "cutting changes its meaning"
    expected = iter(read_requests(whole).requests)
    for method, target, _, content, code in read:
        if not code:
            same = (head for head, body in expected if (head.method, body) == (method, content))
            assert next(same, None) is not None, f"no strict reader finds {method!r} {target!r} {content!r}"


def target(data: bytes) -> None:
    """A target: refused, or sent so that no reading of it leaves /api/ or finds the token endpoint."""
    try:
        sent = upstream_target(data)
    except Refused:
        return
    assert re.fullmatch(rb"/api/[!\"$-~]*", sent), sent
    assert not leaves_api(sent), sent
    assert upstream_target(sent) == sent, "not the same again"


def response(data: bytes) -> None:
    """An upstream's response: the same however it is cut, and no exception but one."""
    parts, whole = pieces(data[1:])
    method = "HEAD" if data[:1] == b"H" else "GET"
    assert _response(method, parts) == _response(method, [whole] if whole else [])


def _response(method: str, parts: list[bytes]) -> tuple[object, ...]:
    reader = Response(method)
    seen = 0
    try:
        for part in parts:
            reader.feed(part)
            seen += len(part)
            assert reader.head is not None or seen <= HEAD_LIMIT + len(part)
    except InvalidResponse:
        return ("invalid", reader.head and reader.head.status)
    head, content = reader.head, reader.take()
    reader.close()
    if head is None:
        return (None,)
    assert len(head.names) == len(head.fields)
    assert head.length is None or not reader.done or not head.has_content or len(content) == head.length
    assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", b"".join(value for _, value in head.fields))
    return head.status, head.fields, head.length, reader.done, content


def token_response(data: bytes) -> None:
    """An answer of the token endpoint: never an exception, and a token that can only be a token."""
    parts, _ = pieces(data)
    reader = AnswerReader()
    for part in parts:
        reader.feed(part)
    outcome = read_answer(reader.answer(), sent_at=1e9, previous=Secret("spent"), sent=("spent",))
    if isinstance(outcome, Issued):
        access = outcome.tokens.access_token.reveal()
        assert re.fullmatch(r"[\x21-\x7e]+", access), access
        assert len(access) <= LONGEST_TOKEN
        assert 0 <= outcome.tokens.expires_at <= 1e9 + 31 * 86400


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    rule.__name__: rule for rule in (request_head, target, response, token_response)
}


def seeds(name: str) -> list[bytes]:
    """The inputs that a target starts from: one bytes literal on each line."""
    return [ast.literal_eval(line) for line in (SEEDS / f"{name}.txt").read_text().splitlines()]


def fuzz(name: str, seconds: int = 10, seed: int = 1, *, keep: bool = False) -> int:
    """Fuzzes one target in a process of its own, because libFuzzer ends its process. Returns the exit status."""
    with TemporaryDirectory() as folder:
        corpus, kept = Path(folder, "corpus"), Path(folder, "kept")
        corpus.mkdir()
        kept.mkdir()
        for number, data in enumerate(seeds(name)):
            (corpus / str(number)).write_bytes(data)
        command = [sys.executable, "-m", "tests.http.fuzz", name, f"-max_len={LONGEST}", "-timeout=5"]
        limits = [f"-max_total_time={seconds}", f"-seed={seed}", "-print_final_stats=1", f"-artifact_prefix={folder}/"]
        status = subprocess.run([*command, *limits, str(corpus)], check=False).returncode
        if keep and not status:
            subprocess.run([*command, "-merge=1", str(kept), str(corpus)], check=True)
            lines = sorted((repr(path.read_bytes()) for path in kept.iterdir()), key=lambda line: (len(line), line))
            (SEEDS / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
        return status


def main(name: str, *options: str) -> None:
    """With options of libFuzzer, fuzzes in this process. Otherwise as the module's docstring says."""
    if any(option.startswith("-") and option != "--keep" for option in options):
        atheris.Setup([__file__, *options], TARGETS[name])
        atheris.Fuzz()
    sys.exit(fuzz(name, *(int(option) for option in options if option != "--keep"), keep="--keep" in options))


if __name__ == "__main__":
    main(*sys.argv[1:])
