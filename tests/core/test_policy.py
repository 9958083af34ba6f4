"""Path templates: what they match, and how paths are folded into them."""

import pytest
import yaml

from krebit_proxy.core.policy import Observations, needed_line, pattern, template
from krebit_proxy.core.target import meanings


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
        (b"/api/x;v=1/%C3%A5", "/api/x/å"),
        (b"/api/x/%7Bid%7D", "/api/x/{id}"),
        (b"/api/x/a%2Ab", "/api/x/{id}"),
        (b"/api/x/%FF", "/api/x/{id}"),
        (b"/api/x/a%2Fb/c", "/api/x/**"),
        (b"/api/x/%1B[31m", "/api/x/{id}"),
    ],
)
def test_numbers_uuids_dates_and_digests_become_parameters(path: bytes, folded: str) -> None:
    assert template(path) == folded
    assert all(pattern(folded).fullmatch(meaning) for meaning in meanings(path))


@pytest.mark.parametrize(
    ("path_template", "matching", "other"),
    [
        ("/api/x", [b"/api/x", b"/api/x/", b"//api//x", b"/api/x;y"], [b"/api/xy", b"/api/x/y", b"/api/X"]),
        ("/api/x/{id}", [b"/api/x/1", b"/api/x/a.b"], [b"/api/x", b"/api/x/", b"/api/x/1/2"]),
        ("/api/x/**", [b"/api/x", b"/api/x/1/2", b"/api/x/"], [b"/api/xy", b"/api/"]),
        ("/api/**", [b"/api/", b"/api/x\ny"], [b"/apix"]),
        ("/api/å.b", [b"/api/\xc3\xa5.b"], [b"/api/\xc3\xa5xb"]),
        ("/api/%C3%A5%20b", [b"/api/\xc3\xa5 b"], [b"/api/%C3%A5%20b"]),
    ],
)
def test_a_template_matches_its_paths(path_template: str, matching: list[bytes], other: list[bytes]) -> None:
    compiled = pattern(path_template)
    assert [path for path in matching if not compiled.fullmatch(path)] == []
    assert [path for path in other if compiled.fullmatch(path)] == []


@pytest.mark.parametrize(
    "path_template", ["", "x", "/x", "/api", "/api/a*", "/api/{a", "/api/x{id}", "/api/**/x", "/api/{}", "/api/a%2Fb"]
)
def test_what_is_no_template_is_told(path_template: str) -> None:
    with pytest.raises(ValueError, match=r"must start|not a valid segment|last segment"):
        pattern(path_template)


def observed(*kinds: tuple[str, str, str]) -> Observations:
    found = Observations()
    for method, path, caller in kinds:
        found.add(method, path.encode(), caller)
    return found


def test_traffic_is_folded_into_the_lines_that_allow_it() -> None:
    found = observed(
        ("GET", "/api/invoices", "loopback"),
        ("GET", "/api/invoices/1", "loopback"),
        ("HEAD", "/api/invoices/2", "loopback"),
        ("POST", "/api/invoices", "loopback"),
        ("HEAD", "/api/status", "loopback"),
    )
    assert found.suggested() == [
        '{methods: [GET, POST], paths: ["/api/invoices"]}',
        '{methods: [GET], paths: ["/api/invoices/{id}"]}',
        '{methods: [HEAD], paths: ["/api/status"]}',
    ]


def test_callers_are_named_where_they_differ() -> None:
    found = observed(
        ("GET", "/api/a", "billing"),
        ("GET", "/api/a", "stock"),
        ("GET", "/api/b", "stock"),
        ("PUT", "/api/c", "billing"),
        ("GET", "/api/c", "stock"),
    )
    assert found.suggested() == [
        '{methods: [GET], paths: ["/api/a"]}',
        '{methods: [GET], paths: ["/api/b", "/api/c"], callers: ["stock"]}',
        '{methods: [PUT], paths: ["/api/c"], callers: ["billing"]}',
    ]


def test_callers_whose_names_yaml_would_take_for_something_else_are_quoted() -> None:
    found = observed(("GET", "/api/a", "1234"), ("PUT", "/api/a", "::1/128"))

    assert [line.partition("callers: ")[2] for line in found.suggested()] == ['["1234"]}', '["::1/128"]}']


def test_names_of_which_there_are_many_become_a_parameter() -> None:
    found = observed(*[("GET", f"/api/customers/{name}/orders", "a") for name in map(chr, range(97, 120))])
    assert found.suggested() == ['{methods: [GET], paths: ["/api/customers/{id}/orders"]}']
    assert observed().suggested() == []


def test_a_suggestion_is_yaml() -> None:
    assert yaml.safe_load(needed_line("GET", "/api/å/7".encode("ascii", "xmlcharrefreplace"))) == {
        "methods": ["GET"],
        "paths": ["/api/&#229/{id}"],
    }
    (line,) = observed(("GET", "/api/%C3%A5/7", "a")).suggested()
    assert yaml.safe_load(line) == {"methods": ["GET"], "paths": ["/api/å/{id}"]}


def test_the_first_of_a_kind_is_told_and_kinds_are_bounded() -> None:
    found = observed()
    assert found.add("GET", b"/api/x/1", "a")
    assert not found.add("GET", b"/api/x/2", "a")
    for number in range(6000):
        found.add("GET", b"/api/x%dy" % number, "a")
    assert found.to_json().count("\n") == 5000 + 2


def test_observations_survive_a_file() -> None:
    found = observed(("GET", "/api/x/1", "a"), ("GET", "/api/x/2", "a"), ("PUT", "/api/%C3%A5", "b"))
    text = found.to_json()
    assert Observations.from_json(text).to_json() == text
    assert '["/api/x/{id}", "GET", "a", 2]' in text
    assert Observations.from_json(observed().to_json()).suggested() == []


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[["/api/x", "GET", "a"]]', '[["/api/x", "GET", "a", "1"]]'])
def test_what_is_no_record_of_observations_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Observations.from_json(text)
