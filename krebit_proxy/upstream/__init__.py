"""One exchange with the upstream: a request out, a response in, on pooled connections.

    exchange = await upstream.open(head, method="POST", content=5)    # the head is ready to be sent
    exchange.send(b"hello")
    exchange.finish()
    head = await exchange.response()
    while chunk := exchange.read_nowait() or await exchange.read():   # b"" is the complete end
        ...
    exchange.release()

- Errors before the head is returned are `Refused`, ready to be answered; afterwards they are `UpstreamBroken`, and the
  caller must see a broken transfer.
- Each exchange ends with `release` (after the end of the content) or `abort` (at any time); both may follow each other.
- Both directions are bounded: `await drain()` after `send`; what is not read is not received, and whoever reads watches
  how long that takes. While content is sent, wait for `response` in parallel: an early answer ends the sending (`drain`
  raises, or `response` returns).
- After a 101 that was asked for (`open(..., upgrade=True)`), `send` and `read` carry raw octets both ways.

The rooms: `pool` (who uses which connection, whose time is up), `exchange` (one request), `response` (reading one
response strictly), `connect` (name, TCP, forward proxy, TLS), `link` (a direct socket), `transport` (for loops that
cannot watch a socket).
"""

from krebit_proxy.upstream.exchange import Exchange, UpstreamBroken
from krebit_proxy.upstream.pool import Upstream
from krebit_proxy.upstream.response import ResponseHead

__all__ = ["Exchange", "ResponseHead", "Upstream", "UpstreamBroken"]
