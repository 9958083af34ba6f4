"""Admission to the sandbox, by the proxy's own rules, so that no web page can control the sandbox."""

from typing import Final

from aiohttp import web

from krebit_proxy.core.access import Rules
from krebit_proxy.core.admission import Request, admit
from krebit_proxy.core.head import Head
from krebit_proxy.errors import Refused

_RULES: Final = Rules.compiled()  # only names of this machine, and only the sandbox's own origin


def refusal(request: web.BaseRequest, origin: str) -> web.Response | None:
    """The error for a request with a foreign Host or from another website. None if the request may pass.

    Links to pages may pass: the proxy redirects to the consent page. `origin` is the sandbox's own, for the error.
    """
    transport = request.transport
    if transport is None:  # the client is gone
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
        text = f"{error.detail} The sandbox is for this computer only, at {origin}\n"
        return web.Response(text=text, status=error.status)
    return None
