#!/usr/bin/env python3
"""Measures strew beside openssl and cp, in one run, as these machines are shared and noisy.

Shares a file of random bytes into a running `serve` without other peers, and fetches it from there through a
private peer with a directory of its own, over loopback. $STREW is the binary. Options: --size MiB, --runs N.
Prints the median of the runs, ratios to `openssl dgst -sha256`, and the highest anonymous memory of any process.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

STREW = os.path.realpath(os.environ.get("STREW", "target/release/strew"))
ENV = {name: value for name, value in os.environ.items() if not name.startswith("STREW_")}


class Memory(threading.Thread):
    """Samples the anonymous memory of all processes of the binary, every 50 ms."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = {}
        self.ended = threading.Event()

    def run(self):
        while not self.ended.wait(0.05):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    if os.readlink(f"/proc/{pid}/exe") != STREW:
                        continue
                    with open(f"/proc/{pid}/cmdline", "rb") as file:
                        name = file.read().split(b"\0")[1].decode()
                    with open(f"/proc/{pid}/status") as file:
                        lines = [line.split() for line in file if line.startswith("RssAnon")]
                    self.peak[name] = max(self.peak.get(name, 0), int(lines[0][1]) * 1024)
                except (OSError, IndexError):
                    continue


def timed(command, **options):
    began = time.monotonic()
    done = subprocess.run(command, env=ENV, stdout=subprocess.PIPE, check=True, **options)
    return time.monotonic() - began, done.stdout.decode().strip()


def reference(path, directory, times):
    """openssl and cp, right before each step, so that all of them find the machine in the same state."""
    copy = os.path.join(directory, "copy")
    times.setdefault("openssl", []).append(timed(["openssl", "dgst", "-sha256", path])[0])
    times.setdefault("cp", []).append(timed(["cp", path, copy])[0])
    os.remove(copy)


def one_run(path, directory):
    """Seconds of each step, by name."""
    times = {}
    peer = os.path.join(directory, "peer")
    quiet = {"stderr": subprocess.DEVNULL}
    for form in ("encrypted", "plain"):
        serve = subprocess.Popen(
            [STREW, "serve", "-d", peer, "-l", "127.0.0.1:0", "--capacity", "64G"],
            env=ENV, stdout=subprocess.PIPE, **quiet)
        try:
            address = serve.stdout.readline().decode().split()[1]
            plain = ["--plain"] if form == "plain" else []
            reference(path, directory, times)
            times["share " + form], name = timed(
                [STREW, "share", "-d", peer, "--min-copies", "0", *plain, path], **quiet)
            client, out = os.path.join(directory, "client"), os.path.join(directory, "out")
            reference(path, directory, times)
            times["fetch " + form], _ = timed(
                [STREW, "fetch", "-d", client, "-p", address, "-o", out, name], **quiet)
            subprocess.run(["cmp", path, out], check=True)
            os.remove(out)
        finally:
            serve.terminate()
            serve.wait()
        shutil.rmtree(peer)
        shutil.rmtree(client)
    for name in ("openssl", "cp"):
        times[name] = statistics.median(times[name])
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="MiB")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--directory", default=None, help="where to work, some 4 times the size")
    options = parser.parse_args()
    for tool in ("openssl", "cmp"):
        if not shutil.which(tool):
            sys.exit(f"bench: {tool} not found")
    directory = tempfile.mkdtemp(dir=options.directory)
    memory = Memory()
    memory.start()
    try:
        path = os.path.join(directory, "file")
        with open(path, "wb") as file:
            for _ in range(options.size):
                file.write(os.urandom(1 << 20))
        runs = [one_run(path, directory) for _ in range(options.runs)]
    finally:
        memory.ended.set()
        shutil.rmtree(directory)
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    print(f"{options.size} MiB, median of {options.runs} runs")
    print(f"{'':18} {'seconds':>8} {'MiB/s':>8} {'x openssl':>10}")
    for name, seconds in medians.items():
        ratio = statistics.median(run[name] / run["openssl"] for run in runs)
        print(f"{name:18} {seconds:8.2f} {options.size / seconds:8.0f} {ratio:10.2f}")
    print("peak anonymous memory, MiB:")
    names = {"__private": "private peer"}
    for name, peak in sorted(memory.peak.items()):
        print(f"{names.get(name, name):18} {peak / (1 << 20):8.1f}")


main()
