"""One exchange with the upstream: a request out, a response in, on pooled connections.

    exchange = await upstream.open(head, method="POST", content=5)    # head: the request line and fields, as bytes
    exchange.send(b"hello")
    exchange.finish()
    head = await exchange.response()
    while chunk := exchange.read_nowait() or await exchange.read():   # b"": the content is complete
        ...
    exchange.release()

- Before the response head, errors are `Refused`: answer with them. Later they are `UpstreamBroken`: the transfer to the
  caller must break off, too.
- Each exchange ends with `release` (after the end of the content) or `abort` (at any time). Calling both does no harm.
- Memory is limited in both directions. Call `await drain()` after `send`. While nobody reads, we stop receiving and
  the time-outs pause, so limit the time of a slow reader yourself.
- While you send content, wait for `response` in parallel, because the upstream may answer early. Then `drain` raises,
  or `response` returns.
- After a 101 to `open(..., upgrade=True)`, `send` and `read` carry raw octets.

The modules: `pool` (which exchange uses which connection, and all time-outs), `exchange` (one request, one response),
`retry` (its second attempt), `response` (the strict parser), `connect` (DNS, TCP, forward proxy, TLS), `link` (a
connection on a socket), `transport` (a connection for event loops that cannot watch a socket), `clock` (for ages).
"""

from krebit_proxy.upstream.exchange import Exchange, UpstreamBroken
from krebit_proxy.upstream.pool import Upstream
from krebit_proxy.upstream.response import ResponseHead

__all__ = ["Exchange", "ResponseHead", "Upstream", "UpstreamBroken"]
