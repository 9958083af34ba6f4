"""The settings: one frozen model. The line below each setting is its description in the JSON schema for editors."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, WithJsonSchema

from krebit_proxy.config.addresses import LABEL, check_url, split_listen, split_url, wrong
from krebit_proxy.core.access import allowed_client, allowed_host, allowed_origin, token
from krebit_proxy.core.host import is_host
from krebit_proxy.core.policy import pattern
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.way_out import DIRECT, WayOut

_UNITS: Final = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_VISIBLE: Final = re.compile(r"[\x20-\x7e]+")  # RFC 6749, appendix A: client_id = *VSCHAR


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(r"(\d+)\s*([KMG]iB|B|)", str(value), re.IGNORECASE)
    if match is None:
        raise wrong("is not a size; write for example 65536, 16KiB or 1MiB")
    return int(match[1]) * _UNITS[match[2].upper()]


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _addresses(value: Any) -> Any:
    """The addresses as a list of texts. YAML reads a port alone as a number."""
    values = value if isinstance(value, list | tuple) else [value]
    return [str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in values]


def _secret(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise wrong("must be text; put it in quotes")
    if not _VISIBLE.fullmatch(value):
        raise wrong("is empty, or contains a line break or another character that a secret cannot contain")
    return Secret(value)


def _organization(value: str) -> str:
    if LABEL.fullmatch(value):
        return value
    first, _, rest = re.sub(r"^https?://", "", value.strip().lower()).partition(".")
    meant = LABEL.fullmatch(first) and (not rest or rest.startswith("krebit.se"))
    hint = f"; did you mean {first}?" if meant else ""
    raise wrong(f"must be the word before .krebit.se: lower-case letters, digits and hyphens{hint}")


def _client_id(value: str) -> str:
    if not _VISIBLE.fullmatch(value):
        raise wrong("is empty, or contains a character that a client id cannot contain")
    return value


def _upstream_url(value: str) -> str:
    check_url(value.replace("{organization}", "x"), origin_only=True)
    return value


def _url(value: str) -> str:
    check_url(value)
    return value


def _redirect_uri(value: str) -> str:
    # RFC 6749, 3.1.2: "The endpoint URI MUST NOT include a fragment component." RFC 9700, 2.6: "Authorization responses
    # MUST NOT be transmitted over unencrypted network connections", loopback excepted.
    check_url(value)
    return value


def _forward_proxy(value: str) -> str:
    if value.lower() == DIRECT:
        return DIRECT
    parts = split_url(value)
    if parts.scheme != "http" or not is_host(parts.hostname or ""):
        raise wrong("must start with http:// and a host name; your requests stay encrypted inside the tunnel")
    return value


def _webhook(value: str) -> str:
    check_url(value, credentials=True)
    return value


def _command(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise wrong(f"is not a valid command line: {error}") from None
    if not words or "\0" in value:
        raise wrong("is not a command; write a program and its arguments")
    return value


def _listen(value: str) -> str:
    tcp = split_listen(value)
    return f"localhost:{tcp[1]}" if tcp and value.isdigit() else value


def _store(value: str) -> str:
    if not re.match(r"file:.|postgres(ql)?://", value):
        raise wrong("must be file:FOLDER or postgresql://...")
    return value


def _by(rule: Callable[[str], str]) -> AfterValidator:
    """Applies a rule from `core`. Its ValueError becomes a problem of the setting."""

    def validated(value: str) -> str:
        try:
            return rule(value)
        except ValueError as error:
            raise wrong(str(error)) from None

    return AfterValidator(validated)


def _client(value: str) -> str:
    allowed_client(value)
    return value


def _path_template(value: str) -> str:
    pattern(value)
    return value


_SIZE_SCHEMA: Final = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d+\s*([KMG]iB|B)?$"}]
}
Size = Annotated[int, BeforeValidator(_size), WithJsonSchema(_SIZE_SCHEMA)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
OneOrMore = BeforeValidator(_one_or_more, json_schema_input_type=str | tuple[str, ...])
Addresses = BeforeValidator(_addresses, json_schema_input_type=str | int | tuple[str | int, ...])
SecretText = Annotated[Secret, BeforeValidator(_secret), WithJsonSchema({"type": "string"})]


class Section(BaseModel):
    """What all sections share: unknown keys are errors, and values never change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


class UpstreamSettings(Section):
    """How the proxy reaches Krebit. Times are in seconds."""

    url: Annotated[str, AfterValidator(_upstream_url)] = "https://{organization}.krebit.se"
    """Where requests go. Use https, or http for this computer only."""
    ca_file: Path | None = None
    """More certificates (PEM) to trust, for example of your company's certificate authority."""
    proxy: Annotated[str, AfterValidator(_forward_proxy)] | None = Field(default=None, repr=False)
    """A corporate HTTP proxy, also for tokens and the webhook. none: direct. Empty: as HTTPS_PROXY and NO_PROXY say."""
    connect_timeout: Seconds = 10
    """Limit for DNS, connection and TLS together, and how long requests wait for a Krebit that refuses connections."""
    response_timeout: Seconds = 60
    """Limit from the end of the request to the start of the response."""
    idle_timeout: Seconds = 300
    """A transfer ends if no byte moves for this long."""
    keepalive: Seconds = 55
    """How long idle connections stay open. Must be less than Krebit keeps them open."""
    max_age: Seconds = 300
    """How long any connection may serve requests. A new one looks the address up again, so DNS changes are noticed."""


class OAuth(Section):
    """How the proxy gets its tokens."""

    authorize_url: Annotated[str, AfterValidator(_url)] | None = None
    """Empty: /oauth/authorize at upstream.url."""
    token_url: Annotated[str, AfterValidator(_url)] | None = None
    """Empty: /api/oauth/token at upstream.url."""
    revoke_url: Annotated[str, AfterValidator(_url)] | None = None
    """Where `krebit-proxy logout` revokes tokens (RFC 7009). Empty: it only deletes them."""
    client_auth: Literal["post", "basic"] = "post"
    """How the proxy sends the client secret: in the body (post), or as HTTP Basic (basic)."""
    pkce: Flag = True
    """Protects the authorization code (RFC 7636). Servers that do not support it ignore it."""
    scope: str = ""
    """The scope to ask for. Empty: the server's default."""


class Refresh(Section):
    """When the proxy renews the access token."""

    ahead: Seconds = 300
    """Seconds before expiry. At least 10 % and at most half of the token's lifetime."""


class Replay(Section):
    """How much request data the proxy keeps, so that it can send a request again after a 401."""

    max_body: Size = 1 << 20
    """Limit for one request body. After a 401, a larger request gets a 503 and your tool sends it again."""
    max_total: Size = 64 << 20
    """Limit for all requests together."""


class Rule(Section):
    """One line of `access.allow`."""

    methods: Annotated[tuple[Annotated[str, _by(token)], ...], OneOrMore] = ()
    """Empty: all methods."""
    paths: Annotated[tuple[Annotated[str, _by(_path_template)], ...], OneOrMore] = ()
    """`{id}`, or any name in braces, matches one segment. A final `**` matches the rest. Empty: all paths."""
    callers: Annotated[tuple[str, ...], OneOrMore] = ()
    """Names of client keys. Empty: all clients."""


class Access(Section):
    """Who may call, and what."""

    expose: Flag = False
    """Allow other computers to connect. Needs client_keys_file or allow_clients too."""
    allowed_hosts: Annotated[tuple[Annotated[str, _by(allowed_host)], ...], OneOrMore] = ()
    """Host names, besides localhost, under which clients reach this proxy."""
    allowed_origins: Annotated[tuple[Annotated[str, _by(allowed_origin)], ...], OneOrMore] = ()
    """Pages and apps that may call the API: https://intranet.example, tauri://localhost, chrome-extension://ID."""
    allow_clients: Annotated[tuple[Annotated[str, _by(_client)], ...], OneOrMore] = ()
    """Addresses that may call, for example 10.1.0.0/16. On unix sockets uid:1000 or gid:33. Empty: all."""
    client_keys_file: Path | None = None
    """One name:key per line. Clients send the key as Bearer, X-Api-Key or Basic password. Reloads on change."""
    require_header: Annotated[str, _by(token)] | None = None
    """A header that each request must have, for example X-Krebit-Proxy. Web pages and redirects cannot send it."""
    read_only: Flag = False
    """Allow only GET, HEAD and OPTIONS."""
    allow: tuple[Rule, ...] = ()
    """Requests to allow, for example {methods: [GET], paths: [/api/invoices/**]}. Empty: all of /api/."""
    cookies: Literal["drop", "forward"] = "drop"
    """All programs on localhost share their cookies. By default, the proxy does not forward them."""


class Limits(Section):
    """What one client, or all clients together, may use. Times are in seconds."""

    connections: Annotated[int, Field(ge=1, strict=True)] = 1000
    """At the limit, the longest idle connection closes. One address of another computer gets half at most."""
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] | None = None
    """Requests per second for each client, on average. Empty: no limit."""
    burst: Annotated[int, Field(ge=1, strict=True)] = 20
    """Requests that a client may send at once, if a rate is set."""
    header_bytes: Annotated[Size, Field(ge=1024)] = 16 << 10
    """Limit for the header of a request, with its first line."""
    header_timeout: Seconds = 30
    """How long the header may take to arrive."""
    body_timeout: Seconds = 60
    """How long the next part of a body may take. In half of this time, at least 240 bytes per second must arrive."""
    keepalive: Seconds = 75
    """How long idle clients stay connected."""
    drain: Seconds = 10
    """How long a stop waits for running requests."""


class Log(Section):
    """What the proxy logs to standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level to log."""
    format: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, otherwise JSON."""
    access: Flag = True
    """Log one event for each request."""


class Notify(Section):
    """Where the proxy sends a message when it cannot get tokens, and when it can again."""

    webhook: Annotated[str, AfterValidator(_webhook)] | None = Field(default=None, repr=False)
    """A URL to POST the message to, as JSON. Use https, or http for this computer only."""
    command: Annotated[str, AfterValidator(_command)] | None = Field(default=None, repr=False)
    """A program and its arguments, run without a shell. It gets the message as JSON on standard input."""
    after: Seconds = 600
    """Seconds that a problem must last before the proxy sends a message. For a refused refresh token, at once."""


class Settings(Section):
    """All settings. After loading, paths are absolute. Derived values are properties."""

    organization: Annotated[str, AfterValidator(_organization)]
    """The word before .krebit.se."""
    client_id: Annotated[str, AfterValidator(_client_id)]
    """The client id of your app at https://ORGANIZATION.krebit.se/developer/my-apps."""
    client_secret: SecretText
    """The client secret of your app. It is safer in a separate file: client_secret_file."""
    redirect_uri: Annotated[str, AfterValidator(_redirect_uri)] = "http://localhost:8321/setup/callback"
    """The redirect URI of your app, exactly as registered."""
    listen: Annotated[tuple[Annotated[str, AfterValidator(_listen)], ...], Addresses, Field(min_length=1)] = (
        "localhost:8321",
    )
    """host:port, a port of localhost (127.0.0.1 and ::1), unix:/path?mode=0660&group=app, fd:N, or a list of these."""
    tls_cert_file: Path | None = None
    """A certificate with its chain (PEM). If set, clients connect with https. Reloads on change."""
    tls_key_file: Path | None = None
    """The key of the certificate. Empty: it is in tls_cert_file."""
    tls_client_ca_file: Path | None = None
    """Certificate authorities (PEM) that sign client certificates. Empty: clients need no certificate."""
    store: Annotated[str, AfterValidator(_store)] = Field(default="file:grant", repr=False)
    """Where to keep the grant: file:FOLDER, or postgresql://... to share it between several proxies."""
    encryption_key_file: Path | None = None
    """Keys that encrypt the grant, one per line. The first one encrypts. Required for postgresql."""
    encryption_key: SecretText | None = Field(default=None, repr=False)
    """The keys themselves, with spaces between them. Set KREBIT_PROXY_ENCRYPTION_KEY rather than this line."""
    upstream: UpstreamSettings = UpstreamSettings()
    oauth: OAuth = OAuth()
    refresh: Refresh = Refresh()
    replay: Replay = Replay()
    access: Access = Access()
    limits: Limits = Limits()
    log: Log = Log()
    notify: Notify = Notify()
    _cautions: tuple[str, ...] = PrivateAttr(default=())
    _environment: WayOut = PrivateAttr(default=WayOut())

    @property
    def cautions(self) -> tuple[str, ...]:
        """Settings that work but need attention, as lines with place, key and what to do."""
        return self._cautions

    def with_cautions(self, cautions: list[str]) -> "Settings":
        self._cautions = tuple(cautions)
        return self

    @property
    def way_out(self) -> WayOut:
        """How all our connections leave this computer."""
        return self._environment if self.upstream.proxy is None else WayOut.from_setting(self.upstream.proxy)

    def with_environment(self, way: WayOut) -> "Settings":
        """Uses the forward proxy that the environment names, unless `upstream.proxy` is set."""
        self._environment = way
        return self

    @property
    def destinations(self) -> tuple[str, ...]:
        """The URLs that we connect to."""
        optional = (self.oauth.revoke_url, self.notify.webhook)
        return (self.upstream_origin, self.token_url, *(url for url in optional if url))

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
