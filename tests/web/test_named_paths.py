"""Every path that a text of ours names is answered by the running proxy: messages, help, pages, settings, README."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import krebit_proxy
from tests.fakes.proxy import StartProxy

PACKAGE = Path(krebit_proxy.__file__).parent
ROOT = Path(__file__).parents[2]
# A path of its own or behind a host, not the rest of a word, of a tag or of a placeholder.
NAMED = re.compile(r"(?:(?<=localhost:8321)|(?<![\w./<>{}*+\[\]()\\:-]))/(?:[a-z]+(?:/[a-z]+)*)?(?![\w*{}/-]|\.\w)")
# What is no page of the proxy: files of the system, Krebit's paths, and the pages of the sandbox.
ELSEWHERE = re.compile(r"/(?:etc|run|proc|dev|tmp|var|api|oauth|developer|sandbox|path|x)\b")


def texts(source: Path) -> Iterator[str]:
    """The texts of a module, its docstrings too since help and the schema show some, or of a page or document."""
    content = source.read_text(encoding="utf-8")
    if source.suffix == ".html":
        yield from re.findall(r'(?:href|action)="([^"{]*)"', content)
        yield re.sub(r"{[{%#].*?[}%#]}|<[^>]*>", " ", content, flags=re.DOTALL)
    elif source.suffix == ".py":
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    else:
        yield content


def named() -> dict[str, set[str]]:
    """Each path with the files that name it."""
    found: dict[str, set[str]] = {}
    sources = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("web/templates/*.html"), PACKAGE / "config/schema.json"]
    for source in [*sources, ROOT / "README.md", ROOT / "config.example.yaml"]:
        if "sandbox" in source.parts:
            continue
        for text in texts(source):
            for path in NAMED.findall(text):
                if not ELSEWHERE.match(path):
                    found.setdefault(path, set()).add(source.name)
    return found


async def test_each_path_that_a_text_names_is_a_page_of_the_proxy(start: StartProxy) -> None:
    proxy = await start(redirect_uri="http://localhost:8321/setup/callback")
    paths = named()
    assert {"/", "/setup", "/setup/paste", "/readyz"} <= paths.keys()
    missing = {}
    for path, files in paths.items():
        answer = await (await proxy.connect()).ask("GET", path)
        if answer.status in {404, 421}:
            missing[path] = files

    assert missing == {}
