"""The settings: one frozen model. Each setting has its one line of why; the JSON schema for editors shows it too."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, WithJsonSchema

from krebit_proxy.config.addresses import LABEL, check_url, split_listen, split_url, wrong
from krebit_proxy.core.access import allowed_client, allowed_host, allowed_origin, token
from krebit_proxy.core.host import is_host
from krebit_proxy.core.policy import pattern
from krebit_proxy.core.secret import Secret

_UNITS: Final = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_VISIBLE: Final = re.compile(r"[\x20-\x7e]+")  # RFC 6749, appendix A: client_id = *VSCHAR


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(r"(\d+)\s*([KMG]iB|B|)", str(value), re.IGNORECASE)
    if match is None:
        raise wrong("is not a size; write a number of bytes or e.g. 16KiB, 1MiB")
    return int(match[1]) * _UNITS[match[2].upper()]


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _addresses(value: Any) -> Any:
    """One or more addresses to listen on, where a port may be a number."""
    values = value if isinstance(value, list | tuple) else [value]
    return [str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in values]


def _secret(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise wrong("must be text; put it in quotes")
    if not _VISIBLE.fullmatch(value):
        raise wrong("is empty, or has a line break or another character that no client secret has")
    return Secret(value)


def _organization(value: str) -> str:
    if LABEL.fullmatch(value):
        return value
    first, _, rest = re.sub(r"^https?://", "", value.strip().lower()).partition(".")
    meant = LABEL.fullmatch(first) and (not rest or rest.startswith("krebit.se"))
    hint = f"; did you mean {first}?" if meant else ""
    raise wrong(f"must be the one word before .krebit.se: letters, digits and hyphens, in lower case{hint}")


def _client_id(value: str) -> str:
    if not _VISIBLE.fullmatch(value):
        raise wrong("is empty, or has a character that no client id has")
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
    parts = split_url(value)
    if parts.scheme != "http" or not is_host(parts.hostname or ""):
        raise wrong("must start with http://, and a host name; what goes through it is encrypted all the same")
    return value


def _webhook(value: str) -> str:
    check_url(value, credentials=True)
    return value


def _command(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise wrong(f"cannot be split into words: {error}") from None
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
    """The value as a rule of the core has it, whose problems become those of the setting."""

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
    """What all sections share: unknown keys are errors, and nothing changes after reading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


class Upstream(Section):
    """Where requests go. Times are seconds."""

    url: Annotated[str, AfterValidator(_upstream_url)] = "https://{organization}.krebit.se"
    """Where requests go: https, or http on loopback only."""
    ca_file: Path | None = None
    """Certificates (PEM) to trust besides the system's, e.g. of a company's own authority."""
    proxy: Annotated[str, AfterValidator(_forward_proxy)] | None = Field(default=None, repr=False)
    """A corporate HTTP proxy to go through, for the token endpoint and notify.webhook too."""
    connect_timeout: Seconds = 10
    """For address, connection and TLS together."""
    response_timeout: Seconds = 60
    """From the end of the request's content to the head of the response."""
    idle_timeout: Seconds = 300
    """A transfer in which no byte moves for so long is ended."""
    keepalive: Seconds = 55
    """How long an idle connection is kept; less than the upstream keeps it."""

    def proxy_to(self, url: str) -> str | None:
        """The forward proxy on the way to `url`. Plain http, which stays on this computer, is not for it to see."""
        return self.proxy if urlsplit(url).scheme == "https" else None


class OAuth(Section):
    """How the authorization server is spoken to."""

    authorize_url: Annotated[str, AfterValidator(_url)] | None = None
    """Empty: /oauth/authorize at the upstream."""
    token_url: Annotated[str, AfterValidator(_url)] | None = None
    """Empty: /api/oauth/token at the upstream."""
    revoke_url: Annotated[str, AfterValidator(_url)] | None = None
    """Where logout revokes tokens (RFC 7009). Empty: tokens are only forgotten."""
    client_auth: Literal["post", "basic"] = "post"
    """How the client secret is sent: in the content, or as HTTP Basic."""
    pkce: Flag = True
    """Binds the code to this proxy (RFC 7636); servers that do not know it ignore it."""
    scope: str = ""
    """What to ask for; empty asks for the server's default."""


class Refresh(Section):
    """When the access token is renewed."""

    ahead: Seconds = 300
    """Seconds before expiry; at least 10 % of the lifetime, at most half of it."""


class Replay(Section):
    """How much content is kept so that a request can be sent again after a 401."""

    max_body: Size = 1 << 20
    """For one request. A larger one is answered 503 after a 401, and the caller sends it again."""
    max_total: Size = 64 << 20
    """For all requests together."""


class Rule(Section):
    """One line of `access.allow`."""

    methods: Annotated[tuple[Annotated[str, _by(token)], ...], OneOrMore] = ()
    """Empty: all methods."""
    paths: Annotated[tuple[Annotated[str, _by(_path_template)], ...], OneOrMore] = ()
    """`{id}`, or any name in braces, stands for one segment, a final `**` for the rest. Empty: all paths."""
    callers: Annotated[tuple[str, ...], OneOrMore] = ()
    """Names of client keys. Empty: everybody."""


class Access(Section):
    """Who may call, and what."""

    expose: Flag = False
    """May listen beyond loopback; then client_keys_file or allow_clients is needed too."""
    allowed_hosts: Annotated[tuple[Annotated[str, _by(allowed_host)], ...], OneOrMore] = ()
    """Names besides localhost that callers may use for this proxy."""
    allowed_origins: Annotated[tuple[Annotated[str, _by(allowed_origin)], ...], OneOrMore] = ()
    """Web sites whose pages may call, e.g. https://intranet.example."""
    allow_clients: Annotated[tuple[Annotated[str, _by(_client)], ...], OneOrMore] = ()
    """Addresses that may call, e.g. 10.1.0.0/16; on unix sockets uid:1000 or gid:33. Empty: all."""
    client_keys_file: Path | None = None
    """One name:key a line; callers send a key as Bearer, X-Api-Key or Basic password. Read again when it changes."""
    require_header: Annotated[str, _by(token)] | None = None
    """A field that each request must have, so that no page or redirect can make one; e.g. X-Krebit-Proxy."""
    read_only: Flag = False
    """Only GET, HEAD and OPTIONS."""
    allow: tuple[Rule, ...] = ()
    """What may be called, e.g. {methods: [GET], paths: [/api/invoices/**]}. Empty: all of /api/."""
    cookies: Literal["drop", "forward"] = "drop"
    """Cookies of localhost are shared by every program on it, so they stay here."""


class Limits(Section):
    """What one caller, or all of them, may take. Times are seconds."""

    connections: Annotated[int, Field(ge=1, strict=True)] = 1000
    """At the limit the longest idle one makes room. One address of another computer may have half of them."""
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] | None = None
    """Requests a second of each caller in the long run. Empty: any number."""
    burst: Annotated[int, Field(ge=1, strict=True)] = 20
    """Requests of a caller at once, where a rate is set."""
    header_bytes: Annotated[Size, Field(ge=1024)] = 16 << 10
    """For the whole head of a request."""
    header_timeout: Seconds = 30
    """For the head to arrive."""
    body_timeout: Seconds = 60
    """For the next part of the content to arrive."""
    keepalive: Seconds = 75
    """How long an idle caller stays connected."""
    drain: Seconds = 10
    """How long a stop waits for what is in flight."""


class Log(Section):
    """What is written to standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is written."""
    format: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, else JSON."""
    access: Flag = True
    """One event for each request."""


class Notify(Section):
    """Who is told when the grant is in trouble, and when it is well again."""

    webhook: Annotated[str, AfterValidator(_webhook)] | None = Field(default=None, repr=False)
    """A URL that gets a POST with the message as JSON: https, or http on loopback only."""
    command: Annotated[str, AfterValidator(_command)] | None = Field(default=None, repr=False)
    """A program and its arguments, run without a shell; it finds the message as JSON on its input."""
    after: Seconds = 600
    """Seconds that a trouble must last before anybody is told."""


class Settings(Section):
    """All settings. Paths are absolute after loading, and derived values are properties."""

    organization: Annotated[str, AfterValidator(_organization)]
    """The word before .krebit.se."""
    client_id: Annotated[str, AfterValidator(_client_id)]
    """Of the app at https://ORGANIZATION.krebit.se/developer/my-apps."""
    client_secret: SecretText
    """Of the same app. Better in a file of its own: client_secret_file."""
    redirect_uri: Annotated[str, AfterValidator(_redirect_uri)] = "http://localhost:8321/setup/callback"
    """Exactly as registered with the app; it is sent byte for byte."""
    listen: Annotated[tuple[Annotated[str, AfterValidator(_listen)], ...], Addresses, Field(min_length=1)] = (
        "localhost:8321",
    )
    """host:port, a port of localhost (127.0.0.1 and ::1), unix:/path?mode=0660&group=app or fd:N; or a list."""
    tls_cert_file: Path | None = None
    """A certificate with its chain (PEM): callers then speak https. Read again when it changes."""
    tls_key_file: Path | None = None
    """Its key. Empty: it is in the file of the certificate."""
    tls_client_ca_file: Path | None = None
    """Certificates (PEM) of the authorities whose client certificates let callers in. Empty: none is asked for."""
    store: Annotated[str, AfterValidator(_store)] = Field(default="file:grant", repr=False)
    """Where the grant is kept: file:FOLDER, or postgresql://... for several proxies with one grant."""
    encryption_key_file: Path | None = None
    """Keys that encrypt the stored grant, one a line; the first encrypts. A must for postgresql."""
    encryption_key: SecretText | None = Field(default=None, repr=False)
    """The same without a file, between spaces; better as KREBIT_PROXY_ENCRYPTION_KEY than in a settings file."""
    upstream: Upstream = Upstream()
    oauth: OAuth = OAuth()
    refresh: Refresh = Refresh()
    replay: Replay = Replay()
    access: Access = Access()
    limits: Limits = Limits()
    log: Log = Log()
    notify: Notify = Notify()
    _cautions: tuple[str, ...] = PrivateAttr(default=())

    @property
    def cautions(self) -> tuple[str, ...]:
        """What works, but should be looked at: each a line with its place, its key and what to do."""
        return self._cautions

    def with_cautions(self, cautions: list[str]) -> "Settings":
        """These settings, with what `load` has to say about them."""
        self._cautions = tuple(cautions)
        return self

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
