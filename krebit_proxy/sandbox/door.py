"""The sandbox's door: the rules of the proxy's own door, so that no web page can drive the sandbox."""

from typing import Final

from aiohttp import web

from krebit_proxy.core.access import Rules
from krebit_proxy.core.admission import Request, admit
from krebit_proxy.core.head import Head
from krebit_proxy.errors import Refused

_RULES: Final = Rules.compiled()  # names of this machine only, and no other origin than the sandbox's own


def refusal(request: web.BaseRequest, origin: str) -> web.Response | None:
    """The answer to a request under a foreign name, or of another web site; None lets it in.

    A link may lead to a page, as the proxy's redirect to the consent page does. `origin` is the sandbox's own.
    """
    transport = request.transport
    if transport is None:  # the caller is gone
        return None
    local, remote = (transport.get_extra_info(end)[0] for end in ("sockname", "peername"))
    try:
        asked = Request(
            peer=_RULES.peer(remote, local),
            method=request.method.encode(),
            target=request.raw_path.encode("utf-8", "surrogateescape"),
            head=Head.examined(request.raw_headers, http10=request.version < (1, 1), withheld=frozenset()),
            page=not request.path.startswith("/api/"),
        )
        admit(asked, _RULES)
    except Refused as error:
        text = f"{error.detail} The sandbox is for this machine only, at {origin}\n"
        return web.Response(text=text, status=error.status)
    return None
