"""A value that never prints itself."""

import hmac
from hashlib import sha256
from typing import NoReturn

MASK = "***"


class Secret:
    """Holds a token, key or password. Only `reveal` returns it. Every other conversion to text shows a mask."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself. Call this only where the value leaves for its destination."""
        return self._value

    def fingerprint(self) -> str:
        """The first eight hex digits of the SHA-256. They identify a secret without revealing it."""
        return sha256(self._value.encode()).hexdigest()[:8]

    def matches(self, other: str) -> bool:
        """Compares in constant time."""
        return hmac.compare_digest(self._value.encode(), other.encode())

    def __repr__(self) -> str:
        return f"Secret({MASK})" if self._value else "Secret()"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str, /) -> str:
        return MASK

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return self.matches(other._value)

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        msg = "a Secret cannot be pickled or sent to another process"
        raise TypeError(msg)

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self
