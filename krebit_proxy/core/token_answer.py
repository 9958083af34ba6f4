"""Reads a response of the token endpoint (RFC 6749, 5.1 and 5.2): tokens, a refusal, or an unclear outcome.

If a 2xx response contains a refresh token, the old one is usually gone, whatever else is wrong with the response. To
discard it would lose the grant. So the reader keeps all that it can read. The faults below cost no more than a warning,
or the access token:

    status        any from 200 to 299
    Content-Type  ignored, except for the charset of content that is not UTF-8
    coding        gzip and deflate although we ask for `identity`, or named but not used
    charset       UTF-8 with a byte order mark, UTF-16, UTF-32, Latin-1, any charset that Content-Type names
    content       form-encoded, text around JSON, JSON that breaks off, several documents (see `core.content`)
    shape         tokens inside other objects or lists, under other spellings of their names, or twice
    transfer      broken off after the tokens
    token_type    any; it counts as Bearer
    expires_in    a string, or under another name; if it is missing or invalid, one hour is assumed
    access token  missing, empty, too long, unfit for a header, or two different ones: the outcome is `Rotated`

A refresh token is kept exactly as it came, because a form can carry every character. If there are several, the
outermost counts, among these the last, and the one that was sent only if there is no other.
"""

import math
import re
from collections.abc import Collection
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from krebit_proxy.core.content import Found, Objects, decoded, page_title, read_objects, text_of
from krebit_proxy.core.grant import LONGEST_LIFETIME, Tokens, access_token_flaw, is_refresh_token, is_text
from krebit_proxy.core.http_answer import HttpAnswer
from krebit_proxy.core.retry_after import seconds_to_wait
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_error import displayable, error_text, error_word, is_transient, kind_of
from krebit_proxy.core.token_response import NO_WORD, Issued, NotSent, Outcome, Refusal, RefusalKind, Rotated, Unclear

DEFAULT_LIFETIME: Final = 3600.0  # if the server names none, or an invalid one
NEVER_ENDS: Final = 100 * 366 * 86400.0  # seconds; a longer lifetime of a refresh token means that it does not expire

_CHARSET: Final = re.compile(r"""charset\s*=\s*["']?([A-Za-z0-9_.:-]+)""", re.IGNORECASE)
_LONGEST_TITLE: Final = 80  # characters
_UNUSABLE: Final = "a token response without a usable access token"
_READ_CODINGS: Final = ("", "identity", "gzip", "x-gzip", "deflate")
_NOT_PROCESSED: Final = (
    300,
    301,
    302,
    303,
    307,
    308,
    425,
    429,
)  # the request was not processed: no token was spent
_NOT_DEFINITE: Final = (408, 425, 429)  # these 4xx are no definite refusals


def read_answer(answer: HttpAnswer, *, sent_at: float, previous: Secret | None, sent: Collection[str] = ()) -> Outcome:
    """The outcome that a response of the token endpoint stands for.

    Args:
        answer: The response.
        sent_at: Wall clock, seconds, just before the request was sent. Lifetimes count from there.
        previous: The refresh token that was sent. None: an authorization code was sent.
        sent: The secrets of the request. An error text may repeat them, so they are masked in it.
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
    """The error code if RFC 6749 allows its characters and it contains no secret. A known code is always shown."""
    known = kind_of(word) is not RefusalKind.OTHER and displayable(word) == word
    return word if known or displayable(word, sent) == word else "an error code that cannot be shown"


def _mark(*facts: object) -> str:
    return sha256(repr(facts).encode()).hexdigest()[:16]


def _status(status: int, title: str | None, sent: Collection[str]) -> str:
    """The status in words, with the title of an HTML page."""
    if title is None:
        return f"{NO_WORD}{status}"
    shown = displayable(title, sent)[:_LONGEST_TITLE]
    return f"{NO_WORD}{status}, a page " + (f'titled "{shown}"' if shown else "without a title")


def _flaw(objects: Objects) -> str:
    """Why a 2xx response brings no tokens."""
    if objects.holders("access_token"):
        return f"{_UNUSABLE}: {_access_token(objects)[1]}"
    return "which is no token response"


# Tokens


def _tokens(
    objects: Objects, status: int, sent_at: float, previous: Secret | None, broken: str
) -> Issued | Rotated | None:
    """The tokens in a 2xx response. None: it has no new ones."""
    refresh = _refresh_token(objects, previous)
    access, flaw = _access_token(objects)
    holders = [*objects.holders("access_token"), *objects.holders("refresh_token"), *objects.found[:1]]
    refresh_expires_at = _refresh_expires_at(holders, sent_at)
    if access is None:
        if refresh is None or (previous is not None and previous.matches(refresh)):
            return None  # no new token: an error response may repeat the one that we sent
        return Rotated(Secret(refresh), f"{_UNUSABLE}: {flaw}", refresh_expires_at)
    warnings = _warnings(objects, status, broken)
    if access != objects.values("access_token")[0]:
        warnings.append("The access token had white space around it. The proxy removed it.")
    expires_at = _expires_at(holders, sent_at)
    if expires_at is None:
        expires_at = sent_at + DEFAULT_LIFETIME
        warnings.append("The token response has no valid expires_in. The proxy assumes one hour.")
    # RFC 6749 6: "The authorization server MAY issue a new refresh token, in which case the client MUST discard the
    # old refresh token and replace it with the new refresh token." If there is none, we keep the old one.
    renewed = previous if refresh is None else Secret(refresh)
    if renewed is None:
        warnings.append("The token response has no refresh token. Access ends when the access token expires.")
    tokens = Tokens(Secret(access), renewed, sent_at, expires_at, _scope(objects), refresh_expires_at)
    return Issued(tokens, tuple(warnings))


def _access_token(objects: Objects) -> tuple[str | None, str]:
    """The access token, or None and the reason why it cannot be used. Of two different ones we cannot know ours."""
    found = {value.strip() if isinstance(value, str) else None for value in objects.values("access_token")}
    if not found:
        return None, "there is none"
    if len(found) > 1:
        return None, "there are two different ones"
    access = found.pop()
    flaw = access_token_flaw(access or "")
    return (None if flaw else access), flaw


def _refresh_token(objects: Objects, previous: Secret | None) -> str | None:
    """The refresh token exactly as it came. Of several, a new one counts before `previous`, and the last of these."""
    values = [str(value) if type(value) is int else value for value in objects.values("refresh_token")]
    found = [value for value in values if isinstance(value, str) and is_refresh_token(value)]
    new = [value for value in found if previous is None or not previous.matches(value)]
    return next(reversed(new or found), None)


def _scope(objects: Objects) -> str:
    """RFC 6749 3.3: "a list of space-delimited, case-sensitive strings". Some servers send a JSON list."""
    for value in objects.values("scope"):
        names = value if isinstance(value, list) else [value]
        return " ".join(name for name in names if isinstance(name, str) and is_text(name))
    return ""


def _warnings(objects: Objects, status: int, broken: str) -> list[str]:
    """Sentences on what is unusual about the response. They quote nothing from its content."""
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
        warnings.append("The token response has no token_type. The proxy assumes Bearer.")
    elif str(kinds[0]).lower() != "bearer":
        warnings.append("The token_type of the token response is not Bearer. The proxy assumes Bearer.")
    return warnings


# Lifetimes


def _expires_at(holders: list[Found], sent_at: float) -> float | None:
    """When the access token expires, counted from `sent_at`. None: the response has no valid lifetime."""
    lifetime = _first(_seconds, holders, ("expiresin",))
    if lifetime is None and (until := _first(_epoch, holders, ("expiresat", "expireson", "expires"))) is not None:
        # Facebook sends a lifetime in `expires`, others a moment.
        lifetime = until if until < _FIRST_MOMENT else until - sent_at
    if lifetime is None or lifetime < 1:
        return None
    return sent_at + min(lifetime, LONGEST_LIFETIME)


def _refresh_expires_at(holders: list[Found], sent_at: float) -> float | None:
    """When the refresh token expires. None: the server does not say, or the token does not expire.

    Keycloak names it refresh_expires_in, with 0 for no end. QuickBooks names it x_refresh_token_expires_in.
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
    """A number, or a string with a number, of at least one. None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 1 else None


def _epoch(value: object) -> float | None:
    """Seconds since the epoch, from seconds, milliseconds, or ISO 8601 with an offset. None for anything else."""
    seconds = _seconds(value)
    if seconds is not None:
        return seconds / 1000 if seconds > _FIRST_MILLISECONDS else seconds
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment.timestamp() if moment and moment.tzinfo else None


_FIRST_MOMENT: Final = 1e9  # seconds: as a moment in 2001, as a lifetime 31 years
_FIRST_MILLISECONDS: Final = 1e11  # as milliseconds in 1973, as seconds in the year 5138
