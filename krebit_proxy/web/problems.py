"""Turns an error into a response: problem details (RFC 9457), or a page with the same content for browsers."""

import json
from typing import Final

from krebit_proxy.errors import SETUP_CODES, ProxyError, Refused
from krebit_proxy.web.pages import BARE, error_page

METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


def problem(
    error: ProxyError, request_id: str, *, setup_url: str | None, html: bool
) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and content of the response for `error`.

    Args:
        error: what happened.
        request_id: the id of the request in the log.
        setup_url: the page for a new authorization. Shown only if that resolves the error.
        html: whether to make a page.
    """
    setup_url = setup_url if error.code in SETUP_CODES else None
    fields, content = (error_page if html else _details)(error, request_id, setup_url)
    fields["X-Krebit-Proxy-Error"] = error.code
    retry_after = error.retry_after if isinstance(error, Refused) else None
    if retry_after is not None:
        fields["Retry-After"] = str(retry_after)
    if error.status == 401:
        # RFC 9110, 15.5.2: "The server generating a 401 response MUST send a WWW-Authenticate header field".
        fields["WWW-Authenticate"] = 'Bearer realm="krebit-proxy", Basic realm="krebit-proxy"'
    if error.status == 405:
        # RFC 9110, 15.5.6: "The origin server MUST generate an Allow header field in a 405 response containing a list
        # of the target resource's currently supported methods."
        fields["Allow"] = ", ".join(error.allow) if isinstance(error, Refused) and error.allow else METHODS
    return error.status, fields, content


def _details(error: ProxyError, request_id: str, setup_url: str | None) -> tuple[dict[str, str], bytes]:
    document: dict[str, str | int] = {
        "type": f"urn:krebit-proxy:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": f"{error.detail} {error.hint}".strip(),
        "code": error.code,
        "request_id": request_id,
    }
    if setup_url is not None:
        document["setup_url"] = setup_url
    return BARE | {"Content-Type": "application/problem+json"}, json.dumps(document).encode() + b"\n"
