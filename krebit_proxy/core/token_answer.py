"""Reads an answer of the token endpoint (RFC 6749, 5.1 and 5.2): tokens, a refusal, or no telling.

Whatever can be read is kept. A 2xx answer with a refresh token in it has rotated that token, whatever else is wrong:
who throws it away because of the rest has lost the grant. So nothing below stops the reading. It costs a warning, or
the access token:

    status        any from 200 to 299
    Content-Type  not looked at, but for the charset of what is no UTF-8
    coding        gzip and deflate though `identity` was asked for, or their names on content that is plain
    charset       UTF-8 with a byte order mark, UTF-16 and UTF-32, Latin-1, any that is named
    content       see `core.content`: form-encoded, text around JSON, JSON that breaks off, several documents
    shape         tokens inside other objects or lists, in other spellings of their names, named twice
    transfer      broken off after the tokens
    token_type    anything, taken as Bearer
    expires_in    missing or nonsense: an hour; under other names; a string
    access token  missing, empty, too long, not fit for a header field, two different ones: `Rotated`

A refresh token is kept exactly as it came: it goes into a form, where every character has a place. Where there are
several, the outermost counts, of equals the last, and never the one that was sent if there is another.
"""

import math
import re
from collections.abc import Collection
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from krebit_proxy.core.content import Found, Objects, decoded, page_title, read_objects, text_of
from krebit_proxy.core.grant import Tokens
from krebit_proxy.core.http_answer import HttpAnswer
from krebit_proxy.core.retry_after import seconds_to_wait
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_error import displayable, error_text, error_word, is_transient, kind_of
from krebit_proxy.core.token_response import NO_WORD, Issued, NotSent, Outcome, Refusal, RefusalKind, Rotated, Unclear

DEFAULT_LIFETIME: Final = 3600.0  # where the server does not say, or says nonsense
LONGEST_LIFETIME: Final = 30 * 86400.0  # a lifetime is a hint; longer ones are not believed
LONGEST_TOKEN: Final = 16 * 1024  # bytes; it must fit into one header field
NEVER_ENDS: Final = 100 * 366 * 86400.0  # seconds; a refresh token with more has no end

# A token goes into a header field: visible ASCII only, so that it can never end the line (RFC 6750, 2.1 is narrower).
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_CHARSET: Final = re.compile(r"""charset\s*=\s*["']?([A-Za-z0-9_.:-]+)""", re.IGNORECASE)
_LONGEST_TITLE: Final = 80  # characters
_UNUSABLE: Final = "a token response without a usable access token"
_READ_CODINGS: Final = ("", "identity", "gzip", "x-gzip", "deflate")
_NOT_PROCESSED: Final = (300, 301, 302, 303, 307, 308, 425, 429)  # nobody was there to spend a token
_NOT_DEFINITE: Final = (408, 425, 429)  # of 4xx


def read_answer(answer: HttpAnswer, *, sent_at: float, previous: Secret | None, sent: Collection[str] = ()) -> Outcome:
    """What an answer of the token endpoint comes to.

    Args:
        answer: what came of it.
        sent_at: wall clock, seconds, from before the request was sent; lifetime counts from there.
        previous: the refresh token that was spent, or None for an authorization code.
        sent: the secrets of the request, which an error text may repeat, and nobody may see.
    """
    status, broken = answer.status, answer.broken
    content = decoded(answer.content, answer.fields.get("content-encoding", ""))
    text = text_of(content, _charset(answer))
    objects = read_objects(text, cut=bool(broken))
    if 200 <= status < 300 and (issued := _tokens(objects, status, sent_at, previous, broken)):
        return issued
    title = page_title(text)
    word = error_word(objects, code=previous is None)
    kind = kind_of(word, code=previous is None)
    description = displayable(error_text(objects), sent)
    definite = (400 <= status < 500 and status not in _NOT_DEFINITE) or 200 <= status < 300
    if kind is not RefusalKind.OTHER or (word and definite and not is_transient(word)):
        return Refusal(_shown(word, sent), description, kind, _mark(word))
    if 400 <= status < 500 and definite and not word and not broken:
        page = title is not None
        mark, said = _mark(status, content), _status(status, title, sent)
        return Refusal(said, description, RefusalKind.OTHER, mark, page, worded=False)
    if not status:
        return Unclear(broken or "an answer that is not HTTP")
    reason = _status(status, title, sent)
    if said := ": ".join(filter(None, [displayable(word, sent), description])):
        reason += f" ({said})"
    elif 200 <= status < 300:
        reason += f", {_flaw(objects)}"
    if (coding := answer.fields.get("content-encoding", "").lower()) not in _READ_CODINGS:
        reason += f", with the content coding {displayable(coding, sent)[:20]!r}, which was not asked for"
    if broken:
        return Unclear(f"{reason}, but {broken}")
    wait = seconds_to_wait(answer.fields.get("retry-after"), sent_at)
    return NotSent(reason, wait) if status in _NOT_PROCESSED else Unclear(reason, wait)


def _charset(answer: HttpAnswer) -> str:
    named = _CHARSET.search(answer.fields.get("content-type", ""))
    return named[1] if named else ""


def _shown(word: str, sent: Collection[str]) -> str:
    """The word itself if RFC 6749 allows it and it holds no secret. A known one means what it means in any case."""
    known = kind_of(word) is not RefusalKind.OTHER and displayable(word) == word
    return word if known or displayable(word, sent) == word else "an error code that cannot be shown"


def _mark(*facts: object) -> str:
    return sha256(repr(facts).encode()).hexdigest()[:16]


def _status(status: int, title: str | None, sent: Collection[str]) -> str:
    """The status, and the title of the page that came with it."""
    if title is None:
        return f"{NO_WORD}{status}"
    shown = displayable(title, sent)[:_LONGEST_TITLE]
    return f"{NO_WORD}{status}, a page " + (f'titled "{shown}"' if shown else "without a title")


def _flaw(objects: Objects) -> str:
    """Why there are no tokens in a 2xx answer."""
    if objects.holders("access_token"):
        return f"{_UNUSABLE}: {_access_token(objects)[1]}"
    return "which is no token response"


# Tokens


def _tokens(
    objects: Objects, status: int, sent_at: float, previous: Secret | None, broken: str
) -> Issued | Rotated | None:
    """The tokens that can be read, or None."""
    refresh = _refresh_token(objects, previous)
    access, flaw = _access_token(objects)
    holders = [*objects.holders("access_token"), *objects.holders("refresh_token"), *objects.found[:1]]
    refresh_expires_at = _refresh_expires_at(holders, sent_at)
    if access is None:
        if refresh is None or (previous is not None and previous.matches(refresh)):
            return None  # an error response may repeat what was sent
        return Rotated(Secret(refresh), f"{_UNUSABLE}: {flaw}", refresh_expires_at)
    warnings = _warnings(objects, status, broken)
    if access != objects.values("access_token")[0]:
        warnings.append("The access token has white space around it, which was removed.")
    expires_at = _expires_at(holders, sent_at)
    if expires_at is None:
        expires_at = sent_at + DEFAULT_LIFETIME
        warnings.append("The token response has no usable expires_in; one hour is assumed.")
    # RFC 6749 6: "The authorization server MAY issue a new refresh token, in which case the client MUST discard the
    # old refresh token and replace it with the new refresh token." None, or an empty one: the old one stays.
    renewed = previous if refresh is None else Secret(refresh)
    if renewed is None:
        warnings.append("The token response has no refresh token: access ends when this token expires.")
    tokens = Tokens(Secret(access), renewed, sent_at, expires_at, _scope(objects), refresh_expires_at)
    return Issued(tokens, tuple(warnings))


def _access_token(objects: Objects) -> tuple[str | None, str]:
    """The access token if it can be used, else what is wrong with it. Two different ones are none: which is ours?"""
    found = {value.strip() if isinstance(value, str) else None for value in objects.values("access_token")}
    if not found:
        return None, "there is none"
    if len(found) > 1:
        return None, "there are two different ones"
    access = found.pop()
    if not access:
        return None, "it is empty, or no text"
    if len(access) > LONGEST_TOKEN:
        return None, "it is longer than 16 KiB"
    if not _TOKEN.fullmatch(access):
        return None, "it has characters that a header field cannot carry"
    return access, ""


def _refresh_token(objects: Objects, previous: Secret | None) -> str | None:
    """The refresh token, exactly as it came."""
    values = [str(value) if type(value) is int else value for value in objects.values("refresh_token")]
    found = [value for value in values if isinstance(value, str) and _readable(value)]
    new = [value for value in found if previous is None or not previous.matches(value)]
    return next(reversed(new or found), None)


def _scope(objects: Objects) -> str:
    """RFC 6749 3.3: "a list of space-delimited, case-sensitive strings". Some send a list of JSON."""
    for value in objects.values("scope"):
        return " ".join(name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str))
    return ""


def _readable(token: str) -> bool:
    """Whether this can be sent at all: it is not blank, and each character is one, no half of a surrogate pair."""
    return bool(token.strip()) and not re.search("[\ud800-\udfff]", token)


def _warnings(objects: Objects, status: int, broken: str) -> list[str]:
    """What is unusual about the answer, never with anything of its content."""
    warnings = []
    if status != 200:
        warnings.append(f"The token response has HTTP status {status} instead of 200.")
    if broken:
        warnings.append(f"The token response broke off after the tokens: {broken}.")
    if objects.shape:
        warnings.append(f"The token response is {objects.shape}.")
    elif (holder := objects.holders("access_token")[0]).depth or isinstance(holder.members["accesstoken"][0], dict):
        warnings.append("The token response has its tokens inside another object.")
    kinds = objects.values("token_type")
    # RFC 6749 5.1: token_type is "case insensitive".
    if not kinds:
        warnings.append("The token response has no token_type; Bearer is assumed.")
    elif str(kinds[0]).lower() != "bearer":
        warnings.append("The token response has another token_type than Bearer; Bearer is assumed.")
    return warnings


# Lifetimes


def _expires_at(holders: list[Found], sent_at: float) -> float | None:
    """When the access token ends, or None. It counts from before the request was sent."""
    lifetime = _first(_seconds, holders, ("expiresin",))
    if lifetime is None and (until := _first(_epoch, holders, ("expiresat", "expireson", "expires"))) is not None:
        # Facebook's `expires` are seconds to come; others send the moment.
        lifetime = until if until < _FIRST_MOMENT else until - sent_at
    if lifetime is None or lifetime < 1:
        return None
    return sent_at + min(lifetime, LONGEST_LIFETIME)


def _refresh_expires_at(holders: list[Found], sent_at: float) -> float | None:
    """When the refresh token ends by itself, if the server says so.

    Keycloak says refresh_expires_in, and 0 for a token without an end; QuickBooks x_refresh_token_expires_in.
    """
    names = ("refreshtokenexpiresin", "refreshexpiresin", "xrefreshtokenexpiresin")
    lifetime = _first(_seconds, holders, names)
    if lifetime is None:
        until = _first(_epoch, holders, ("refreshtokenexpiresat", "refreshexpiresat", "refreshtokenexpireson"))
        lifetime = None if until is None else until - sent_at
    return sent_at + lifetime if lifetime is not None and 0 < lifetime < NEVER_ENDS else None


def _first(read: Any, holders: list[Found], names: tuple[str, ...]) -> float | None:
    for found in holders:
        for name in names:
            for value in found.members.get(name, ()):
                if (number := read(value)) is not None:
                    return float(number)
    return None


def _seconds(value: object) -> float | None:
    """A lifetime: a number or a numeric string of at least one. None where it is anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 1 else None


def _epoch(value: object) -> float | None:
    """A moment, as seconds since the epoch: in seconds, in milliseconds, or as ISO 8601 with its offset."""
    seconds = _seconds(value)
    if seconds is not None:
        return seconds / 1000 if seconds > _FIRST_MILLISECONDS else seconds
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment.timestamp() if moment and moment.tzinfo else None


_FIRST_MOMENT: Final = 1e9  # seconds: a moment of 2001, or a lifetime of 31 years
_FIRST_MILLISECONDS: Final = 1e11  # as milliseconds in 1973, as seconds in the year 5138
