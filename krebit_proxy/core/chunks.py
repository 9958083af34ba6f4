"""Reads chunked content (RFC 9112, 7.1), strictly, however its bytes are cut. Extensions are dropped."""

import re
from typing import Final

from krebit_proxy.errors import Refused

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
# RFC 9112, 7.1.1: chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )
_EXTENSION: Final = rb"[ \t]*+;[ \t]*+%b(?:[ \t]*+=[ \t]*+(?:%b|%b))?+" % (_TOKEN, _TOKEN, _QUOTED)
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:%b)*+\r\n" % _EXTENSION)
_BEGUN: Final = re.compile(rb"[0-9A-Fa-f]{1,15}(?:[ \t;][^\r\n]*+)?\r?")
_TRAILER: Final = re.compile(rb"(%b):[ \t]*+([\t -~\x80-\xff]*+)\r\n" % _TOKEN)
_LAST: Final = 16  # bytes of a begun size line that are checked


class Chunks:
    """The chunked content of one message.

    Attributes:
        done: The content and its trailers are complete.
        trailers: Their names and values.
    """

    __slots__ = ("_after_data", "_begun", "_last", "_left", "done", "trailers")

    def __init__(self) -> None:
        self._left = 0  # bytes of the current chunk that are still to come
        self._begun = b""  # an incomplete line
        self._after_data = self._last = self.done = False
        self.trailers: list[tuple[bytes, bytes]] = []

    def feed(self, data: bytes, at: int) -> tuple[list[bytes], int]:
        """The pieces of content from `data[at:]`, and where the message ends in `data` (or `data` itself).

        Raises Refused(bad_request) if the bytes are not chunked content.
        """
        pieces = []
        size = len(data)
        while at < size and not self.done:
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                pieces.append(piece)
                continue
            end = data.find(b"\n", at) + 1 or size
            line, self._begun = self._begun + data[at:end], b""
            at = end
            if line.endswith(b"\n"):
                self._take(line)
            else:
                self._check(line)
                self._begun = line
        return pieces, at

    def _take(self, line: bytes) -> None:
        """Takes a complete line."""
        if self._after_data:
            if line != b"\r\n":
                raise _invalid()
            self._after_data = False
        elif self._last:
            if line == b"\r\n":
                self.done = True
            elif match := _TRAILER.fullmatch(line):
                self.trailers.append((match[1], match[2]))
            else:
                raise _invalid()
        elif match := _SIZE.fullmatch(line):
            self._left = int(match[1], 16)
            self._last, self._after_data = self._left == 0, self._left > 0
        else:
            raise _invalid()

    def _check(self, begun: bytes) -> None:
        """Raises Refused if no valid line can begin like that, so that the caller need not wait for its end."""
        valid = begun == b"\r" if self._after_data else self._last or _BEGUN.fullmatch(begun[:_LAST])
        if not valid:
            raise _invalid()


def _invalid() -> Refused:
    return Refused("bad_request", "The body is not valid chunked content.")
