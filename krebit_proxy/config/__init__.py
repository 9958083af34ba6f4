"""The settings, from a file and the environment. All problems are reported at once."""

from krebit_proxy.config.document import is_setting
from krebit_proxy.config.load import find, load
from krebit_proxy.config.model import (
    Access,
    Limits,
    Log,
    Notify,
    OAuth,
    Refresh,
    Replay,
    Rule,
    Settings,
    UpstreamSettings,
)

__all__ = [
    "Access",
    "Limits",
    "Log",
    "Notify",
    "OAuth",
    "Refresh",
    "Replay",
    "Rule",
    "Settings",
    "UpstreamSettings",
    "find",
    "is_setting",
    "load",
]
