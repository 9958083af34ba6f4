"""The environment variables that programs get which we start: the browser and `notify.command`.

A service manager, a container or a shell may put any secret into our environment, under any name. So this is a list of
harmless names. Not on it: variables of krebit-proxy, PostgreSQL and clouds, and proxies, whose URLs may hold a
password.
"""

import os
import re
from collections.abc import Mapping
from typing import Final

# fmt: off
_HARMLESS: Final = frozenset(
    {
        # everywhere
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "TERM", "COLORTERM", "NO_COLOR", "COLUMNS", "LINES",
        # sessions with a screen
        "BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "DESKTOP_SESSION",
        "GDK_BACKEND", "MOZ_ENABLE_WAYLAND", "KDE_FULL_SESSION", "KDE_SESSION_VERSION",
        "GNOME_DESKTOP_SESSION_ID", "__CF_USER_TEXT_ENCODING", "WSL_DISTRO_NAME", "WSL_INTEROP",
        # Windows
        "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "OS", "COMPUTERNAME", "USERNAME",
        "USERDOMAIN", "USERPROFILE", "HOMEDRIVE", "HOMEPATH", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA",
        "ALLUSERSPROFILE", "PUBLIC", "PROGRAMFILES", "PROGRAMFILES(X86)", "PROGRAMW6432",
        "COMMONPROGRAMFILES", "COMMONPROGRAMFILES(X86)", "COMMONPROGRAMW6432", "NUMBER_OF_PROCESSORS",
        "PROCESSOR_ARCHITECTURE",
    }
)
# fmt: on
# The XDG_ ones of the base directory specification and of sessions; XDG_ACTIVATION_TOKEN is meant for one program.
_HARMLESS_KIND: Final = re.compile(
    "LC_[A-Z]+|XDG_([A-Z]+_(HOME|DIRS?)|CURRENT_DESKTOP|SEAT|VTNR|SESSION_(CLASS|DESKTOP|ID|TYPE))"
)


def harmless(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a program we start may see."""
    return {name: value for name, value in environ.items() if name in _HARMLESS or _HARMLESS_KIND.fullmatch(name)}


def shed() -> None:
    """Removes all other variables from our own environment. What a library starts cannot inherit them then."""
    for name in os.environ.keys() - harmless(os.environ).keys():
        del os.environ[name]
