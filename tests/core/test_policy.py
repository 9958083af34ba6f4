"""Path templates: what they match, and how paths are folded into them."""

import pytest

from krebit_proxy.core.policy import pattern, template


@pytest.mark.parametrize(
    ("path", "folded"),
    [
        (b"/api/invoices", "/api/invoices"),
        (b"/api/invoices/17/lines/2", "/api/invoices/{id}/lines/{id}"),
        (b"/api//invoices/", "/api/invoices"),
        (b"/api/x/1b4e28ba-2fa1-11d2-883f-0016d3cca427", "/api/x/{id}"),
        (b"/api/x/2030-01-31", "/api/x/{id}"),
        (b"/api/x/2030-01", "/api/x/{id}"),
        (b"/api/x/2030-01-31T10:00:00Z", "/api/x/{id}"),
        (b"/api/x/d41d8cd98f00b204e9800998ecf8427e", "/api/x/{id}"),
        (b"/api/v2/deadbeef", "/api/v2/deadbeef"),
    ],
)
def test_numbers_uuids_dates_and_digests_become_parameters(path: bytes, folded: str) -> None:
    assert template(path) == folded
    assert pattern(folded).fullmatch(path)


@pytest.mark.parametrize(
    ("path_template", "matching", "other"),
    [
        ("/api/x", [b"/api/x", b"/api/x/", b"//api//x"], [b"/api/xy", b"/api/x/y", b"/api/X"]),
        ("/api/x/{id}", [b"/api/x/1", b"/api/x/a.b"], [b"/api/x", b"/api/x/", b"/api/x/1/2"]),
        ("/api/x/**", [b"/api/x", b"/api/x/1/2", b"/api/x/"], [b"/api/xy", b"/api/"]),
        ("/api/**", [b"/api/", b"/api/x\ny"], [b"/apix"]),
        ("/api/å.b", [b"/api/\xc3\xa5.b"], [b"/api/\xc3\xa5xb"]),
    ],
)
def test_a_template_matches_its_paths(path_template: str, matching: list[bytes], other: list[bytes]) -> None:
    compiled = pattern(path_template)
    assert [path for path in matching if not compiled.fullmatch(path)] == []
    assert [path for path in other if compiled.fullmatch(path)] == []


@pytest.mark.parametrize(
    "path_template", ["", "x", "/x", "/api", "/api/a*", "/api/{a", "/api/x{id}", "/api/**/x", "/api/{}"]
)
def test_what_is_no_template_is_told(path_template: str) -> None:
    with pytest.raises(ValueError, match=r"template|last"):
        pattern(path_template)
