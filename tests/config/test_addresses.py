"""Addresses in settings, taken apart."""

import re
from pathlib import Path

import pytest
from pydantic_core import PydanticCustomError

import krebit_proxy
from krebit_proxy.config.addresses import check_url, split_listen, split_unix, taken_path


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("localhost:8321", ("localhost", 8321)),
        ("[2001:db8::1]:0", ("2001:db8::1", 0)),
        ("unix:/run/proxy.sock", None),
        ("fd:3", None),
    ],
)
def test_a_listen_address_has_a_host_and_a_port_or_neither(address: str, place: tuple[str, int] | None) -> None:
    assert split_listen(address) == place


def test_a_unix_socket_has_a_path_and_who_may_open_it() -> None:
    assert split_unix("unix:/run/s?mode=0660&group=app") == ("/run/s", {"mode": "0660", "group": "app"})
    assert split_unix("unix:/run/s") == ("/run/s", {})


@pytest.mark.parametrize("address", ["unix:/run/s?mode=rw", "unix:/run/s?mode=0999", "unix:/run/s?owner=app"])
def test_other_options_of_a_unix_socket_are_refused(address: str) -> None:
    with pytest.raises(PydanticCustomError):
        split_unix(address)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://a.example", "must start with https://"),
        ("https://", "has no valid host name"),
        ("https://me:secret@a.example", "must not contain a user name or password"),
        ("http://a.example", "uses plain http to another computer"),
        ("https://a.example/#x", "must not contain a fragment"),
        ("https://a.example/x", "must end after the host name and port"),
        ("https://a.example:port", "its host or port is invalid"),
        ("https://a.example/ x", "percent-encode its spaces"),
    ],
)
def test_a_url_that_cannot_work_is_refused_in_words(url: str, problem: str) -> None:
    with pytest.raises(PydanticCustomError) as refused:
        check_url(url, origin_only=True)

    assert problem in str(refused.value)
    assert "secret" not in str(refused.value)


def test_each_page_of_ours_has_its_path_to_itself() -> None:
    sources = (Path(krebit_proxy.__file__).parent / "web").glob("*.py")
    served = {path for source in sources for path in re.findall(r'"(/[a-z/]*)": self\._', source.read_text())}

    assert {"/", "/setup", "/metrics"} <= served
    assert [path for path in served if not taken_path(path)] == []


@pytest.mark.parametrize(("path", "taken"), [("/setup", True), ("/%73etup", True), ("/api/x", True), ("/cb", False)])
def test_a_redirection_endpoint_may_not_hide_another_page(path: str, taken: bool) -> None:
    assert taken_path(path) is taken
