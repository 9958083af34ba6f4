"""The names of all settings: which are text, which are lists, and which one a misspelt name probably means."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from krebit_proxy.config.model import Rule, Settings
from krebit_proxy.core.secret import Secret

SECRET: Final = "client_secret"
SECRET_FILE: Final = f"{SECRET}_file"


def fields(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by its dotted name. Sections are replaced by their settings."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


@cache
def sections() -> frozenset[str]:
    """The dotted names of all groups of settings. The outermost has none."""
    return frozenset(name.rpartition(".")[0] for name, _ in fields())


@cache
def texts() -> frozenset[str]:
    """Settings that are text, so that `0123` or `no` in a variable stays text."""
    return frozenset({SECRET_FILE} | {name for name, field in fields() if _is_text(field.annotation)})


@cache
def lists() -> frozenset[str]:
    """Settings that are lists of text. A single value counts as a list of one."""
    return frozenset(
        name
        for name, field in fields()
        if get_origin(field.annotation) is tuple and _is_text(get_args(field.annotation)[0])
    )


def _is_text(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _is_text(get_args(annotation)[0])
    if origin in {Union, UnionType}:
        return any(_is_text(part) for part in get_args(annotation))
    return origin is Literal or annotation in {str, Path, Secret}


def nearest(name: str) -> str | None:
    """The setting that an unknown dotted name probably means, or None."""
    section, _, leaf = re.sub(r"\[\d+\]", "", name).replace("-", "_").lower().rpartition(".")
    known = [
        *dict(fields()),
        SECRET_FILE,
        *Settings.model_fields,
        *(f"access.allow.{key}" for key in Rule.model_fields),
    ]
    # Without a section, the name may have one `_` instead of the dot, as in `KREBIT_PROXY_UPSTREAM_URL`.
    siblings = [key for key in known if not section or key.rpartition(".")[0] == section]
    if close := get_close_matches(f"{section}.{leaf}" if section else leaf, siblings, n=1, cutoff=0.7):
        return close[0]
    leaves = {key.rpartition(".")[2]: key for key in reversed(known)}
    close = get_close_matches(leaf, leaves, n=1, cutoff=0.8)
    return leaves[close[0]] if close else None
