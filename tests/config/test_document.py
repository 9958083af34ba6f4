"""Settings as they were written, each with its place."""

from pathlib import Path

import pytest

from krebit_proxy.config.document import Document, add_environment, dotted, is_setting, read_file


def written(tmp_path: Path, text: str) -> Document:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return read_file(path)


def test_each_value_is_remembered_with_its_line(tmp_path: Path) -> None:
    document = written(tmp_path, "a: 1\nb:\n  c: [x,\n    y]\n")

    assert document.values == {"a": 1, "b": {"c": ["x", "y"]}}
    places = [document.place(key) for key in (("a",), ("b", "c", 0), ("b", "c", 1))]
    assert [str(place).removeprefix(str(tmp_path)) for place in places] == [
        "/config.yaml:1",
        "/config.yaml:3",
        "/config.yaml:4",
    ]


def test_what_has_no_place_stands_where_its_surroundings_do(tmp_path: Path) -> None:
    document = written(tmp_path, "a: 1\nb:\n  c: 2\n")

    assert str(document.place(("b", "missing"))) == f"{tmp_path / 'config.yaml'}:2"
    assert str(document.place(("missing",))) == f"{tmp_path / 'config.yaml'}"


def test_a_key_is_named_as_a_person_writes_it() -> None:
    assert dotted(("access", "allow", 0, "methods")) == "access.allow[0].methods"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2\n", ":2: a: is set twice; the first is at "),
        ("a: !secret x\n", ":1: a: has a YAML tag (!...); put the value in quotes"),
        ("a: &x [1]\nb: *x\n", ":2: invalid YAML: * starts an alias; put the value in quotes"),
        ("a:\n\t- 1\n", "; indent with spaces, not with tabs"),
        ("- a\n", ": must contain settings in the form `name: value`"),
    ],
    ids=["twice", "tag", "alias", "tab", "list"],
)
def test_what_yaml_would_take_or_hide_is_a_problem(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = written(tmp_path, text).problems

    assert problem in str(found)


def test_a_variable_wins_over_the_file_and_is_named_as_the_place(tmp_path: Path) -> None:
    document = written(tmp_path, "limits: {drain: 1}\nname: file\n")
    environ = {"KREBIT_PROXY_LIMITS__DRAIN": "5", "KREBIT_PROXY_NAME": "0123", "KREBIT_PROXY_EMPTY": "", "OTHER": "x"}
    add_environment(document, environ, texts=frozenset({"name"}), lists=frozenset())

    assert document.values == {"limits": {"drain": 5}, "name": "0123"}
    assert str(document.place(("limits", "drain"))) == "KREBIT_PROXY_LIMITS__DRAIN"


def test_the_name_of_the_file_is_no_setting() -> None:
    assert [name for name in ("KREBIT_PROXY_LISTEN", "KREBIT_PROXY_CONFIG", "LISTEN") if is_setting(name)] == [
        "KREBIT_PROXY_LISTEN"
    ]
