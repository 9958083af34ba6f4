"""What is measured, from the load's side: wrk for small requests, plain sockets for large transfers."""

import os
import re
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.benchmarks.contenders import BIG

_UNITS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_TICK: Final = os.sysconf("SC_CLK_TCK")


def wrk(port: int, connections: int, seconds: int, core: int) -> dict[str, float]:
    """Requests a second, and the median and 99th percentile of the latency in ms. Raises RuntimeError on any error."""
    url = f"http://127.0.0.1:{port}/api/small"
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or re.search(r"Socket errors: .*[1-9]", output):
        raise RuntimeError(f"not every request was answered:\n{output}")
    latency = {
        percent: float(value) * _UNITS[unit]
        for percent, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", output)
    }
    requests = re.search(r"Requests/sec:\s+([\d.]+)", output)
    count = re.search(r"(\d+) requests in", output)
    assert requests
    assert count
    if count[1] == "0":
        raise RuntimeError(f"no request was answered within {seconds} s")
    return {"rate": float(requests[1]), "p50": latency["50"], "p99": latency["99"], "count": float(count[1])}


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def download(port: int) -> float:
    """MB/s of one large response."""
    buffer = bytearray(1 << 20)
    with _connected(port) as sock:
        start = time.perf_counter()
        sock.sendall(b"GET /api/big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received = 0
        while size := sock.recv_into(buffer):
            received += size
        seconds = time.perf_counter() - start
    if received < BIG:
        raise RuntimeError(f"the download broke off after {received} octets")
    return BIG / 1e6 / seconds


def upload(port: int, file: Path) -> float:
    """MB/s of one large request, up to its response."""
    head = b"PUT /api/upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % BIG
    with _connected(port) as sock, file.open("rb") as content:
        start = time.perf_counter()
        sock.sendall(head)
        sock.sendfile(content)
        status = sock.recv(4096).split(b" ")[1]
        seconds = time.perf_counter() - start
    if not status.startswith(b"2"):
        raise RuntimeError(f"the upload was answered with {status!r}")
    return BIG / 1e6 / seconds


def wait_for(port: int, process: "subprocess.Popen[bytes]", *, seconds: float = 30) -> float:
    """Seconds until somebody listens on `port`."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return time.perf_counter() - start
        time.sleep(0.001)
    raise RuntimeError(f"nobody listens on {port}")


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(each for child in children for each in family(int(child)))]
    return []


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its descendants."""
    total = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICK


def peak_memory(pid: int) -> float:
    """MB that a process and its descendants held at most."""
    total = 0
    for each in family(pid):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{each}/status").read_text())
        total += int(match[1]) if match else 0
    return total * 1024 / 1e6
