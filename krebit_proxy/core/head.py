"""What the fields of a request say (RFC 9110, 6.3), whatever its request line is."""

from dataclasses import dataclass, field
from typing import Final

from krebit_proxy.core.fields import NO_NAMES, Fields, Names, checked, forwarded, framing, one_forward_less
from krebit_proxy.errors import Refused


@dataclass(frozen=True, slots=True)
class Head:
    """The results that depend on the fields of a request alone.

    A caller sends the same fields again and again on a connection. So a Head is made for the first of these requests
    and serves all of them.

    Attributes:
        fields: As sent.
        names: From `fields.checked`.
        http10: Whether the request is HTTP/1.0, which has other rules.
        length: From `fields.framing`.
        expects: Whether the caller waits for 100 (Continue) before it sends content.
        withheld: From `fields.withheld`.
        lines: The header lines that go upstream, each with its line end.
    """

    fields: Fields = field(repr=False)  # may contain secrets of the caller
    names: Names
    http10: bool
    length: int | None
    expects: bool
    withheld: frozenset[bytes] = field(repr=False)
    lines: bytes = field(repr=False)

    @classmethod
    def examined(cls, fields: Fields, *, http10: bool, withheld: frozenset[bytes]) -> "Head":
        """Raises Refused if the message is invalid, or if two readers could disagree about its end."""
        names = checked(fields)
        # RFC 9112, 3.2: exactly one Host field. Only HTTP/1.0 may have none.
        hosts = names.count(b"host")
        if hosts > 1 or not (hosts or http10):
            raise Refused("host_not_allowed", "A request must have exactly one Host header.")
        # RFC 9110, 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that
        # expectation." And one that receives another member "MAY respond with a 417 (Expectation Failed) status code".
        expects = b"expect" in names and not http10
        if expects and any(fields[place][1].lower() != b"100-continue" for place in names.at[b"expect"]):
            raise Refused("expectation_failed", "The only supported Expect header is 100-continue.")
        length = framing(names, fields, http10=http10)
        # RFC 9110, 10.1.1: only for a request that "will contain content".
        expects = expects and length != 0
        return cls(fields, names, http10, length, expects, withheld, forwarded(names, fields, withheld))

    def lines_for(self, method: bytes) -> bytes:
        """`lines`, with Max-Forwards decremented for OPTIONS."""
        if method == b"OPTIONS" and b"max-forwards" in self.names:
            return forwarded(self.names, [one_forward_less(*field) for field in self.fields], self.withheld)
        return self.lines


NO_FIELDS: Final = Head((), NO_NAMES, http10=False, length=0, expects=False, withheld=frozenset(), lines=b"")
