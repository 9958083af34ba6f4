import json

import pytest

from krebit_proxy.errors import CODES, Refused
from krebit_proxy.web.problems import problem

SETUP = "http://localhost:8321/setup"


@pytest.mark.parametrize("code", CODES)
def test_every_error_is_a_problem_document_with_its_code(code: str) -> None:
    error = Refused(code, "What happened.", hint="What to do.")
    status, fields, content = problem(error, "id-1", setup_url=SETUP, html=False)
    document = json.loads(content)
    shown = document.pop("setup_url", None)

    assert status == CODES[code][0]
    assert fields["X-Krebit-Proxy-Error"] == code
    assert fields["Content-Type"] == "application/problem+json"
    assert document == {
        "type": f"urn:krebit-proxy:problem:{code}",
        "title": CODES[code][1],
        "status": status,
        "detail": "What happened. What to do.",
        "code": code,
        "request_id": "id-1",
    }
    assert shown == (SETUP if code in {"setup_required", "reauthorization_required"} else None)


def test_patience_is_asked_for_in_whole_seconds() -> None:
    error = Refused("token_unavailable", "Not now.", retry_after=7)

    assert problem(error, "id", setup_url=None, html=False)[1]["Retry-After"] == "7"


def test_statuses_that_owe_a_field_have_it() -> None:
    def fields(code: str) -> dict[str, str]:
        return problem(Refused(code, "No."), "id", setup_url=None, html=False)[1]

    assert "Bearer" in fields("client_key_required")["WWW-Authenticate"]
    assert fields("method_not_allowed")["Allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
    assert "Retry-After" not in fields("bad_request")


def test_a_browser_gets_a_page_that_shows_text_as_text() -> None:
    error = Refused("setup_required", "<script>alert(1)</script>", hint="Open it.")
    status, fields, content = problem(error, "id-1", setup_url=SETUP, html=True)

    assert status == 503
    assert fields["Content-Type"].startswith("text/html")
    assert fields["X-Krebit-Proxy-Error"] == "setup_required"
    assert b"<script>" not in content
    assert SETUP.encode() in content
