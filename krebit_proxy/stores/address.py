"""What the address of a database leads to, by libpq's own rules, and the TLS that we demand on the way.

libpq's default is `sslmode=prefer`: a server that offers no TLS and asks for the password gets it in clear. So beyond
this computer we ask for `verify-full`, unless the address itself says otherwise. `PGSSLMODE` does not count: it is easy
to inherit by accident.
"""

import ssl
from itertools import zip_longest
from pathlib import Path
from typing import Final

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn

from krebit_proxy.core.loopback import is_loopback

_SAFE: Final = "verify-full"
_STOP: Final = "krebit-proxy"


def secured(address: str) -> str:
    """`address` with the TLS options that it lacks. Raises psycopg's ProgrammingError if it is invalid."""
    options, added, given = _resolved(address), {}, conninfo_to_dict(address)
    mode = given.get("sslmode")
    if mode is None and _leaves(options):
        mode = added["sslmode"] = _SAFE
    if mode == _SAFE and "gssencmode" not in given:
        added["gssencmode"] = "disable"  # libpq would prefer it to TLS, and then nothing is verified
    if mode == _SAFE and (authorities := _authorities(options.get("sslrootcert"))):
        added["sslrootcert"] = authorities
    return make_conninfo(address, **added)


def caution(address: str) -> str:
    """What is weak about `address`, for people. Empty: nothing, or it is invalid."""
    try:
        mode = conninfo_to_dict(address).get("sslmode")
    except ProgrammingError:
        return ""
    if mode in {None, _SAFE} or not _leaves(_resolved(address)):
        return ""
    return (
        f"sslmode={mode} lets another computer pretend to be the database, or read along; write sslmode={_SAFE}, with"
        " sslrootcert=FILE if its certificate is from an authority of your own"
    )


def _resolved(address: str) -> dict[str, str]:
    """All options as libpq finds them: in the address, the environment or a service file. Connects to nothing."""
    # libpq collects the options before it looks at their values. At this impossible value it stops.
    attempt = PGconn.connect_start(make_conninfo(address, target_session_attrs=_STOP).encode())
    try:
        return {option.keyword.decode(): option.val.decode() for option in attempt.info if option.val}
    finally:
        attempt.finish()


def _leaves(options: dict[str, str]) -> bool:
    """Whether one of the hosts may be another computer."""
    if options.get("target_session_attrs") != _STOP:
        return True  # libpq did not get as far as the hosts
    hosts, addresses = (options.get(name, "").split(",") for name in ("host", "hostaddr"))
    # libpq connects to hostaddr, where there is one. Without both it uses the local socket.
    places = [address or host or "/" for host, address in zip_longest(hosts, addresses, fillvalue="")]
    return not all(place.startswith(("/", "@")) or is_loopback(place) for place in places)


def _authorities(given: str | None) -> str:
    """The file of the system's certificate authorities, if neither `given` nor libpq's default names others.

    For `system`, too: the libpq that comes with psycopg looks for them in a folder that no system has.
    """
    if given not in {None, "system"} or (given is None and _own_authorities().exists()):
        return ""
    return ssl.get_default_verify_paths().cafile or "system"


def _own_authorities() -> Path:
    """The file that libpq uses by itself."""
    return Path("~/.postgresql/root.crt").expanduser()
