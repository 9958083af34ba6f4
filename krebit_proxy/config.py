"""The settings: one frozen model, read from a file and the environment, every problem reported at once."""

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from krebit_proxy.core.secret import Secret

_UNITS: Final = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def _size(value: Any) -> int:
    """Reads `16KiB`, `1MiB` or a number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(r"(\d+)\s*([KMG]iB|B|)", str(value), re.IGNORECASE)
    if match is None:
        raise PydanticCustomError("size", "is not a size; write a number of bytes or e.g. 16KiB, 1MiB")
    return int(match[1]) * _UNITS[match[2].upper()]


Size = Annotated[int, BeforeValidator(_size)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    """What all sections share: unknown keys are errors, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Upstream(Section):
    """Where requests go."""

    url: str = "https://{organization}.krebit.se"
    ca_file: Path | None = None
    proxy: str | None = None
    connect_timeout: Seconds = 10
    response_timeout: Seconds = 60
    idle_timeout: Seconds = 300
    keepalive: Seconds = 55


class OAuth(Section):
    """How the authorization server is spoken to."""

    authorize_url: str | None = None
    token_url: str | None = None
    revoke_url: str | None = None
    client_auth: Literal["post", "basic"] = "post"
    pkce: bool = True
    scope: str = ""


class Refresh(Section):
    """When the access token is renewed."""

    ahead: Seconds = 300


class Replay(Section):
    """How much content is kept so that a request can be sent again after a 401."""

    max_body: Size = 1 << 20
    max_total: Size = 64 << 20


class Rule(Section):
    """One line of `access.allow`."""

    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


class Access(Section):
    """Who may call, and what."""

    expose: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allow_clients: tuple[str, ...] = ()
    client_keys_file: Path | None = None
    require_header: str | None = None
    read_only: bool = False
    allow: tuple[Rule, ...] = ()
    cookies: Literal["drop", "forward"] = "drop"


class Limits(Section):
    """What one caller, or all of them, may take."""

    connections: int = Field(default=1000, ge=1)
    header_bytes: Size = 16 << 10
    header_timeout: Seconds = 30
    body_timeout: Seconds = 60
    keepalive: Seconds = 75
    drain: Seconds = 10


class Log(Section):
    """What is written to standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    access: bool = True


class Notify(Section):
    """Who is told when a person must act."""

    webhook: str | None = None
    command: str | None = None
    after: Seconds = 600


class Settings(Section):
    """All settings. Paths are absolute, and derived values are properties."""

    organization: str
    client_id: str
    client_secret: Secret
    redirect_uri: str = "http://localhost:8321/setup/callback"
    listen: tuple[str, ...] = ("localhost:8321",)
    store: str = "file:grant"
    encryption_key_file: Path | None = None
    upstream: Upstream = Upstream()
    oauth: OAuth = OAuth()
    refresh: Refresh = Refresh()
    replay: Replay = Replay()
    access: Access = Access()
    limits: Limits = Limits()
    log: Log = Log()
    notify: Notify = Notify()

    @property
    def upstream_origin(self) -> str:
        """Scheme, host and port of the upstream, without a path or a final slash."""
        return self.upstream.url.replace("{organization}", self.organization).rstrip("/")

    @property
    def authorize_url(self) -> str:
        """The authorization endpoint."""
        return self.oauth.authorize_url or f"{self.upstream_origin}/oauth/authorize"

    @property
    def token_url(self) -> str:
        """The token endpoint."""
        return self.oauth.token_url or f"{self.upstream_origin}/api/oauth/token"
