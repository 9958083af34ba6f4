"""The proxies that are compared: how each is configured and started. All of them log each request to a file."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fakes.certificates import Authority
from tests.fakes.proxy import CLIENT_ID, CLIENT_SECRET, ORGANIZATION, settings_of, store_grant

HERE: Final = Path(__file__).parent
USER: Final = "user root;" if os.geteuid() == 0 else ""
BIG: Final = 256 << 20  # octets of the download and of the upload


@dataclass(frozen=True)
class Place:
    """What a contender is told: its folder, the port to listen on, the upstream and its CA."""

    folder: Path
    port: int
    upstream_port: int
    ca_file: Path

    @property
    def upstream(self) -> str:
        return f"https://localhost:{self.upstream_port}"


Command = Callable[[Place], list[str]]


def start_upstream(folder: Path, port: int, core: int) -> "subprocess.Popen[bytes]":
    """nginx with TLS: a small JSON document, a large download, and uploads that it reads to the end."""
    authority = Authority(folder)
    authority.server("localhost")
    root = folder / "www" / "api"
    root.mkdir(parents=True)
    with (root / "big").open("wb") as big:
        big.truncate(BIG)
    (root / "small").write_text(json.dumps({"id": 4711, "name": "Example AB", "amount": "12.50", "currency": "SEK"}))
    config = folder / "upstream.conf"
    config.write_text(f"""
        {USER} daemon off; worker_processes 1; pid {folder}/upstream.pid; error_log {folder}/upstream.log;
        events {{ worker_connections 8192; }}
        http {{
            access_log off; sendfile on; keepalive_requests 10000000; keepalive_timeout 300;
            client_max_body_size 0; client_body_temp_path {folder}/incoming;
            default_type application/json; root {folder}/www;
            server {{
                listen 127.0.0.1:{port} ssl backlog=4096;
                ssl_certificate {folder}/localhost.pem; ssl_certificate_key {folder}/localhost.pem;
                ssl_session_cache shared:sessions:1m;
                location /api/upload {{ dav_methods PUT; }}
                location /api/ {{ open_file_cache max=10; }}
            }}
        }}""")
    return start(["nginx", "-c", str(config)], folder / "upstream.out", core)


def start(command: list[str], output: Path, core: int, **environment: str) -> "subprocess.Popen[bytes]":
    """Starts a process that may run on one core only."""
    # As an installation has it: compiled modules are kept, and read at the next start.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with output.open("wb") as out:
        return subprocess.Popen(
            ["taskset", "-c", str(core), *command], stdout=out, stderr=out, env={**inherited, **environment}
        )


def nginx(place: Place) -> list[str]:
    config = place.folder / "nginx.conf"
    config.write_text(f"""
        {USER} daemon off; worker_processes 1; pid {place.folder}/nginx.pid; error_log {place.folder}/nginx.log;
        events {{ worker_connections 8192; }}
        http {{
            access_log {place.folder}/nginx-access.log; keepalive_requests 10000000; client_max_body_size 0;
            client_body_temp_path {place.folder}/a; proxy_temp_path {place.folder}/b;
            upstream krebit {{ server localhost:{place.upstream_port}; keepalive 2048; keepalive_requests 10000000; }}
            server {{
                listen 127.0.0.1:{place.port} backlog=4096;
                location /api/ {{
                    proxy_pass https://krebit; proxy_http_version 1.1; proxy_set_header Connection "";
                    proxy_set_header Host localhost; proxy_set_header Authorization "Bearer token";
                    proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_trusted_certificate {place.ca_file};
                    proxy_request_buffering off; proxy_max_temp_file_size 0;
                }}
            }}
        }}""")
    return ["nginx", "-c", str(config)]


def haproxy(place: Place) -> list[str]:
    config = place.folder / "haproxy.cfg"
    config.write_text(f"""
global
    nbthread 1
    maxconn 5000
    log stdout format raw local0
defaults
    mode http
    log global
    option httplog
    http-reuse always
    timeout connect 10s
    timeout client 300s
    timeout server 300s
frontend callers
    bind 127.0.0.1:{place.port} backlog 4096
    default_backend krebit
backend krebit
    http-request set-header Authorization "Bearer token"
    http-request set-header Host localhost
    default-server ssl verify required ca-file {place.ca_file} sni str(localhost) pool-max-conn 4096
    server krebit 127.0.0.1:{place.upstream_port}
""")
    return ["haproxy", "-db", "-f", str(config)]


def caddy(place: Place) -> list[str]:
    config = place.folder / "Caddyfile"
    config.write_text(f"""{{
    admin off
    auto_https off
}}
http://:{place.port} {{
    bind 127.0.0.1
    log {{
        output file {place.folder}/caddy-access.log
    }}
    reverse_proxy https://localhost:{place.upstream_port} {{
        header_up Authorization "Bearer token"
        header_up Host localhost
        transport http {{
            tls_trusted_ca_certs {place.ca_file}
            versions 1.1
            keepalive_idle_conns_per_host 4096
        }}
    }}
}}
""")
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]


def usual(place: Place) -> list[str]:
    return [sys.executable, str(HERE / "usual.py"), str(place.port), place.upstream, str(place.ca_file)]


def ours(place: Place) -> list[str]:
    """Everything on, as in production: admission, metrics, the access log (standard error, here a file)."""
    folder = place.folder / f"ours-{time.monotonic_ns()}"
    folder.mkdir()
    upstream = {"url": place.upstream, "ca_file": str(place.ca_file)}
    asyncio.run(store_grant(settings_of(place.upstream, folder, upstream=upstream)))
    config = folder / "config.yaml"
    settings = {
        "organization": ORGANIZATION,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "listen": [f"127.0.0.1:{place.port}"],
        "store": f"file:{folder / 'grant'}",
        "upstream": upstream,
        "limits": {"connections": 4096},
    }
    config.write_text(json.dumps(settings))  # JSON is YAML
    config.chmod(0o600)
    return [sys.executable, "-m", "krebit_proxy", "run", "--config", str(config)]


CONTENDERS: Final[dict[str, Command]] = {
    "nginx": nginx,
    "HAProxy": haproxy,
    "Caddy": caddy,
    "usual aiohttp": usual,
    "krebit-proxy": ours,
}
