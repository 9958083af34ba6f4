"""Shared by all pages for people: templates, protective headers, redirects, and the example of an API call."""

import re
import secrets
import shlex
import time
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Final

from aiohttp import web

from krebit_proxy import __version__
from krebit_proxy.config import Settings
from krebit_proxy.core.origin import own_origin, serves
from krebit_proxy.core.times import moment
from krebit_proxy.errors import ProxyError, Refused
from krebit_proxy.web.bridge import VISIT

if TYPE_CHECKING:
    from jinja2 import Environment

_PROTECTION: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# For responses without HTML: redirects, and JSON for programs.
BARE: Final = _PROTECTION | {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
}
_AUTHORITY: Final = re.compile(r"[A-Za-z0-9.:\[\]-]+")


def render(template: str, *, form_action: str = "", **facts: object) -> tuple[dict[str, str], bytes]:
    """Fields and content of a page.

    Args:
        template: the name of a file in templates/.
        form_action: another origin to which its forms may lead, also by redirects.
        facts: variables of the template. All are escaped.
    """
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; frame-ancestors 'none'; base-uri 'none'; "
        f"form-action 'self' {form_action}"
    )
    fields = _PROTECTION | {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": policy.rstrip(),
    }
    text = _templates().get_template(template).render(nonce=nonce, version=__version__, now=time.time(), **facts)
    return fields, text.encode()


def page(template: str, *, status: int = 200, form_action: str = "", **facts: object) -> web.Response:
    """A response with the page that `render` makes."""
    fields, content = render(template, form_action=form_action, **facts)
    return web.Response(status=status, headers=fields, body=content)


def error_page(error: ProxyError, request_id: str, setup_url: str | None) -> tuple[dict[str, str], bytes]:
    """Fields and content of the page for `error`. Its status, and fields such as Retry-After, are left to `problem`."""
    return render("error.html", error=error, request_id=request_id, setup_url=setup_url)


def see_other(location: str, cookies: Iterable[str] = ()) -> web.Response:
    """A redirect that is always followed with GET, and leaves no trace in caches or Referer headers.

    Args:
        location: one of our own pages, or the authorization endpoint. Never a URL from the request.
        cookies: values of Set-Cookie fields.
    """
    response = web.Response(status=303, headers=BARE | {"Location": location})
    response.headers.extend(("Set-Cookie", cookie) for cookie in cookies)
    return response


def allow(request: web.BaseRequest, *methods: str) -> None:
    """Raises Refused(method_not_allowed) unless the request's method is one of `methods`."""
    if request.method not in methods:
        raise Refused("method_not_allowed", f"This page allows only {', '.join(methods)}.", allow=methods)


def origin_seen(request: web.BaseRequest, settings: Settings) -> str | None:
    """The origin by which a browser reaches this proxy, e.g. http://localhost:8321. None if there is none.

    Behind a unix socket only a redirect URI that leads to this proxy can tell.
    """
    own = own_origin(settings.redirect_uri, settings.access.allowed_hosts)
    visit = request[VISIT]
    authority = visit.authority
    known = _AUTHORITY.fullmatch(authority)
    if visit.peer.unix or (own and (serves(own, authority) or not known)):
        return own
    return f"{visit.peer.scheme.decode()}://{authority if known else 'localhost:8321'}"


def example_call(request: web.BaseRequest, settings: Settings) -> str:
    """A curl command that calls the API through this proxy, with the headers that the settings require."""
    access = settings.access
    required = f"-H '{access.require_header}: 1' " if access.require_header else ""
    key = "-H 'X-Api-Key: YOUR_KEY' " if access.client_keys_file else ""
    path = _socket_path(request)
    socket = f"--unix-socket {shlex.quote(path)} " if path else ""
    place = (not path and origin_seen(request, settings)) or "http://localhost"
    return f"curl {required}{key}{socket}{place}/api/"


def _socket_path(request: web.BaseRequest) -> str:
    """The path of the unix socket that the request came through. Empty for TCP, and for a socket without a path."""
    name = request.transport.get_extra_info("sockname") if request.transport else None
    return name if isinstance(name, str) else ""


@cache
def _templates() -> "Environment":
    """Loads Jinja2 for the first page only: many proxies never show one."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("krebit_proxy.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["moment"] = moment
    return templates
