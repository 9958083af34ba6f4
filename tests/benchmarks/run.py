"""Compares krebit-proxy with nginx, HAProxy, Caddy and the usual aiohttp proxy, on this machine.

    python tests/benchmarks/run.py

Debian packages that it needs: nginx haproxy caddy wrk util-linux. Two processor cores: each proxy runs alone on the
first one, the load (wrk) and the upstream (nginx with TLS) on the second one. The proxies take turns, each started anew
in every round; the table shows medians over the rounds, and ratios of ours to each. Every proxy verifies the upstream's
certificate, keeps connections to it open and writes an access log to a file; ours has everything on. Other work on the
machine disturbs the figures: only ratios mean anything, and only from a quiet machine.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from krebit_proxy.cli.demo import free_port
from tests.benchmarks import load
from tests.benchmarks.contenders import CONTENDERS, Place, start, start_upstream

PACKAGES = {"nginx": "nginx", "haproxy": "haproxy", "caddy": "caddy", "wrk": "wrk", "taskset": "util-linux"}
WARM_UP = 1  # seconds
STEPS = (1, 32, 256, 1000)  # connections
ROWS = {
    "rate 32": ("requests/s, 32 connections", "{:,.0f}"),
    "rate 1000": ("requests/s, 1,000 connections", "{:,.0f}"),
    "p50": ("p50 ms, 1 connection", "{:.3f}"),
    "p99": ("p99 ms, 1 connection", "{:.3f}"),
    **{f"cost {step}": (f"CPU µs/request, {step:,} connection{'s' * (step > 1)}", "{:.0f}") for step in STEPS},
    "download": ("MB/s, download of 256 MiB", "{:,.0f}"),
    "cost down": ("CPU s for this download", "{:.2f}"),
    "upload": ("MB/s, upload of 256 MiB", "{:,.0f}"),
    "cost up": ("CPU s for this upload", "{:.2f}"),
    "memory": ("peak memory, MB", "{:,.0f}"),
    "memory 1000": ("peak memory, MB, 1,000 connections", "{:,.0f}"),
    "listening": ("s until it listens", "{:.2f}"),
}
Figures = dict[str, float]


def measure(name: str, place: Place, seconds: int, cores: tuple[int, int], log: Path) -> Figures:
    """One round of one contender."""
    home = str(place.folder)
    environment = {
        "GOMAXPROCS": "1",
        "XDG_DATA_HOME": home,
        "XDG_CONFIG_HOME": home,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    process = start(CONTENDERS[name](place), log, cores[0], **environment)
    try:
        figures = {"listening": load.wait_for(place.port, process)}
        for step in STEPS:
            if step == 256:  # what few callers need at most, before there are many
                figures |= large(process.pid, place)
                figures["memory"] = load.peak_memory(process.pid)
            load.wrk(place.port, step, WARM_UP, cores[1])  # connections are made, and kept, before anything counts
            before = load.cpu_seconds(process.pid)
            result = load.wrk(place.port, step, seconds, cores[1])
            figures[f"cost {step}"] = (load.cpu_seconds(process.pid) - before) / result["count"] * 1e6
            figures[f"rate {step}"] = result["rate"]
            if step == 1:
                figures |= {"p50": result["p50"], "p99": result["p99"]}
        figures["memory 1000"] = load.peak_memory(process.pid)
        return figures
    finally:
        process.terminate()
        process.wait(30)


def large(pid: int, place: Place) -> Figures:
    """One large response and one large request: their rates, and the processor time that the proxy takes for each."""
    start = load.cpu_seconds(pid)
    download = load.download(place.port)
    between = load.cpu_seconds(pid)
    upload = load.upload(place.port, place.folder / "www/api/big")
    cost_down, cost_up = between - start, load.cpu_seconds(pid) - between
    return {"download": download, "cost down": cost_down, "upload": upload, "cost up": cost_up}


def table(names: list[str], medians: dict[str, Figures]) -> str:
    """Figures in Markdown, with ratios of ours to each."""
    ours = medians.get("krebit-proxy")
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for key, (title, style) in ROWS.items():
        cells = []
        for name in names:
            value = medians[name][key]
            ratio = f" ({ours[key] / value:.2f}x)" if ours and name != "krebit-proxy" and value else ""
            cells.append(style.format(value) + ratio)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    if ours:
        lines.append("\nIn brackets: krebit-proxy's figure divided by this one.")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the table shows medians (default 5)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds for each run of wrk (default 3)")
    parser.add_argument("--only", default="", help="contenders to run, with commas between")
    parser.add_argument("--cores", default="1,0", help="the proxy's core, the load's core (default 1,0)")
    options = parser.parse_args()
    if missing := [package for program, package in PACKAGES.items() if not shutil.which(program)]:
        print(f"Some programs are missing: apt-get install {' '.join(missing)}")
        return 2
    names = [name for name in CONTENDERS if not options.only or name in options.only.split(",")]
    proxy_core, load_core = map(int, options.cores.split(","))
    os.sched_setaffinity(0, {load_core})  # large transfers come from this process
    rounds: dict[str, list[Figures]] = defaultdict(list)
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as temporary:
        folder = Path(temporary)
        port, upstream_port = free_port(0), free_port(0)
        upstream = start_upstream(folder, upstream_port, load_core)
        try:
            load.wait_for(upstream_port, upstream)
            place = Place(folder, port, upstream_port, folder / "ca.pem")
            for number in range(options.rounds):
                for name in names:
                    log = folder / f"{name}.log"
                    print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr)
                    try:
                        rounds[name].append(measure(name, place, options.seconds, (proxy_core, load_core), log))
                    except (RuntimeError, subprocess.SubprocessError, OSError) as failure:
                        print(f"{name} failed in this round: {failure}\n{log.read_text()[-2000:]}", file=sys.stderr)
        finally:
            upstream.terminate()
            upstream.wait(30)
    medians = {
        name: {key: statistics.median(figures[key] for figures in results) for key in results[0]}
        for name, results in rounds.items()
    }
    print(table([name for name in names if name in medians], medians))
    return 0 if len(medians) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
