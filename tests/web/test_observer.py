"""What callers do, written down for rules that allow just that."""

from pathlib import Path

import pytest

from krebit_proxy.errors import SettingsError
from tests.fakes.door import ask
from tests.fakes.proxy import running_proxy
from tests.fakes.upstream import Upstream, answer


async def test_what_callers_do_is_observed_and_nothing_is_refused_meanwhile(upstream: Upstream, tmp_path: Path) -> None:
    file = tmp_path / "observed.json"
    rules = {"read_only": True, "allow": [{"paths": ["/api/other"]}]}
    for run in ("first", "second"):  # which goes on where the first one ended
        upstream.script = [answer(), answer(), answer(404), answer(201)]
        (tmp_path / run).mkdir()
        async with running_proxy(upstream, tmp_path / run, observe=file, access=rules) as proxy:
            for target in ("/api/invoices/17?secret", "/api/invoices/18"):
                assert (await ask(proxy, "GET", target)).status == 200
            assert (await ask(proxy, "GET", "/api/missing")).status == 404
            assert (await ask(proxy, "POST", "/api/invoices", content=b"x")).status == 201
            assert (await ask(proxy, "GET", "/api/../x")).status == 403
            assert (await ask(proxy, "GET", "/healthz")).status == 200
    assert file.read_text() == (
        '[\n["/api/invoices", "POST", "loopback", 2],\n["/api/invoices/{id}", "GET", "loopback", 4]\n]\n'
    )
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "observed.json", "second"]


async def test_a_file_of_something_else_is_not_overwritten_by_observing(upstream: Upstream, tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("precious")
    with pytest.raises(SettingsError, match="cannot be read as observations"):
        async with running_proxy(upstream, tmp_path, observe=file):
            pass
    assert file.read_text() == "precious"
