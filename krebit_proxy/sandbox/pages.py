"""The sandbox's pages: small HTML with inline style. They load nothing, and everything is escaped."""

import secrets
from functools import cache
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("krebit_proxy.sandbox"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def page(template: str, *, status: int = 200, form_action: str = "'none'", **values: Any) -> web.Response:
    """An HTML page from `template`. `form_action` lists where its form may lead (Content-Security-Policy)."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; form-action {form_action}; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy,
        # Not "no-referrer": Chromium would send `Origin: null` with the page's form, and `door` refuses that.
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    text = _templates().get_template(template).render(nonce=nonce, **values)
    return web.Response(text=text, content_type="text/html", status=status, headers=headers)
