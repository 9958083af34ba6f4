"""Reads error responses of the token endpoint (RFC 6749, 5.2).

RFC 6749 has one member `error` with a few fixed codes. Servers also send codes of their own, in other spellings, under
other names and inside other objects. An error code is called a *word* here, since not every server sends a code.
"""

import re
from collections.abc import Collection, Iterator
from typing import Final
from urllib.parse import quote, quote_plus

from krebit_proxy.core.content import Found, Objects, squash
from krebit_proxy.core.secret import MASK
from krebit_proxy.core.token_response import RefusalKind

# RFC 6749 5.2: "Values for the "error_description" parameter MUST NOT include characters outside the set
# %x20-21 / %x23-5B / %x5D-7E." The error code has the same set.
_NOT_SHOWN: Final = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
_LONGEST_TEXT: Final = 300  # characters

# RFC 6749 5.2: invalid_grant says that the "refresh token is invalid, expired, revoked, does not match the redirection
# URI used in the authorization request, or was issued to another client." These mean the same: GitHub's
# bad_refresh_token, HubSpot's BAD_REFRESH_TOKEN, Slack's invalid_refresh_token, Supabase's refresh_token_not_found and
# refresh_token_already_used. `invalid_token` and `token_expired` are left out: they may be about another token.
_DEAD: Final = re.compile(
    r"invalidgrant|expiredtoken"
    r"|(?:invalid|bad|expired|revoked|unknown|inactive|incorrect)refreshtoken"
    r"|refreshtoken(?:is)?(?:invalid|expired|revoked|notfound|unknown|inactive|alreadyused|reused|reusedetected)"
)
# The same for an authorization code: GitHub's bad_verification_code, HubSpot's BAD_AUTH_CODE, Slack's invalid_code and
# code_already_used.
_DEAD_CODE: Final = re.compile(
    r"(?:bad|invalid|expired)(?:verification|auth|authorization)?code"
    r"|(?:auth|authorization)?code(?:invalid|expired|notfound|alreadyused)"
)
# RFC 6749 5.2: "Client authentication failed" and "not authorized to use this authorization grant type". GitHub says
# incorrect_client_credentials, HubSpot BAD_CLIENT_ID and BAD_CLIENT_SECRET, Slack invalid_client_id.
_CLIENT: Final = re.compile(r"unauthorizedclient|(?:invalid|bad|incorrect)client(?:id|secret|credentials)?")
# These are temporary, whatever the status is. RFC 6749 4.1.2.1 has the first two.
_TRANSIENT: Final = frozenset(
    {
        "servererror",
        "temporarilyunavailable",
        "serviceunavailable",
        "internalerror",
        "internalservererror",
        "slowdown",
        "ratelimited",
        "ratelimitexceeded",
        "toomanyrequests",
    }
)
_ERROR_NAMES: Final = ("error", "errorcode", "errortype")  # the value of such a member is always an error word
# The value of such a member counts only inside an error object, or if the word is known.
_OTHER_NAMES: Final = ("code", "type", "status", "name")
_TEXT_NAMES: Final = ("errordescription", "errormessage", "message", "description", "detail", "reason", "title")


def displayable(text: object, secrets: Collection[str] = ()) -> str:
    """A text of the server that is safe to show: `secrets` masked, only characters of RFC 6749, at most 300 of them."""
    if not isinstance(text, str):
        return ""
    # Every encoding of a secret, the longest first, and before the cut: no part of one may remain.
    spellings = {spell(secret) for secret in secrets if secret for spell in (str, quote, quote_plus)}
    for spelling in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelling, MASK)
    return _NOT_SHOWN.sub(" ", text)[:_LONGEST_TEXT].strip()


def kind_of(word: str, *, code: bool = False) -> RefusalKind:
    """What `word` means. Letter case and punctuation do not matter, and the word may be the end of a URI.

    Args:
        word: As the server sent it, for example `bad_refresh_token`.
        code: Whether we sent an authorization code instead of a refresh token.
    """
    parts = re.split(r"[.:/#]", word)
    for name in (squash(parts[0]), squash(parts[-1])):
        if _DEAD.fullmatch(name) or (code and _DEAD_CODE.fullmatch(name)):
            return RefusalKind.VERDICT
        if _CLIENT.fullmatch(name):
            return RefusalKind.CLIENT
    return RefusalKind.OTHER


def is_transient(word: str) -> bool:
    """Whether `word` means that the error is temporary."""
    return squash(word) in _TRANSIENT


def error_word(objects: Objects, *, code: bool = False) -> str:
    """The error word of a response: the first known one, else the first one. Empty: there is none."""
    own = [word for found in objects.found for word in _words(found, _ERROR_NAMES)]
    own += [word for found in _errors(objects) for word in _words(found, _OTHER_NAMES)]
    others = [word for found in objects.found for word in _words(found, _OTHER_NAMES)]
    known = (word for word in [*own, *others] if kind_of(word, code=code) is not RefusalKind.OTHER)
    return next(known, own[0] if own else "")


def error_text(objects: Objects) -> str:
    """The server's description of the error. Empty: there is none."""
    for name in _TEXT_NAMES:
        for found in objects.found:
            for text in _words(found, (name,)):
                return text
    return ""


def _words(found: Found, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        for value in found.members.get(name, ()):
            if isinstance(value, str) and value.strip():
                yield value


def _errors(objects: Objects) -> Iterator[Found]:
    """The objects that are values of `error` or `errors`, alone or in a list."""
    for found in objects.found:
        for name in ("error", "errors"):
            for value in found.members.get(name, ()):
                for one in value if isinstance(value, list) else [value]:
                    if isinstance(one, dict):
                        yield Found(found.depth + 1, one)
