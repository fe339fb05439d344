#!/usr/bin/env python3
"""Measures strew beside what else the machine has, in one run and by turns, as such machines are shared and noisy.

Shares files of random bytes into running peers, and fetches them through a private peer with a directory of its
own, over loopback. $STREW is the binary. Prints the medians of the runs, as seconds and as ratios to the reference
of the same run, with what each is to be at most beside it. References that are not installed are left out, and said.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time

from lab import (
    ENV, QUIET, STREW, Echo, Files, Memory, Pings, Serve, adopt_orphans, await_true, cpu_of, cpu_of_children, forget,
    preload, program, settle, status, timed, workplace)

FORMS = ("encrypted", "plain")
# Seconds, where curl and then openssl dgst take 1.30; and in what they take here.
CPU_MAX = 2.6
CPU_RATIO_MAX = 2.0
SMALL_MAX = 0.3
AGAIN_MIN = 0.45
MEMORY_MAX = 32
PING_MAX = 5.0
STEP_MAX = 2.0
FIND_NODE_MIN = 170_000
# Seconds.
ASKED = 3
# Enough peers around one for full answers.
NEIGHBOURS = 24


class Table:
    """Figures by name, one of each run."""

    def __init__(self):
        self.figures = {}

    def add(self, name, value):
        self.figures.setdefault(name, []).append(value)

    def median(self, name):
        return statistics.median(self.figures[name])

    def ratio(self, name, reference):
        pairs = zip(self.figures[name], self.figures[reference])
        return statistics.median(a / b for a, b in pairs)

    def __contains__(self, name):
        return name in self.figures


def say(what, seconds, ratio="", limit="", verdict=""):
    print(f"{what:52} {seconds:>10} {ratio:>22} {limit:>14} {verdict}".rstrip(), flush=True)


def judged(value, limit, is_least=False):
    return "ok" if (value >= limit if is_least else value <= limit) else "MISSED"


def seconds(value):
    return f"{value:.2f} s"


class Bench:
    def __init__(self, options, directory):
        self.directory = directory
        self.runs = options.runs
        self.size = options.size
        self.table = Table()
        self.program = program("datagrams")
        self.library = preload(directory)
        self.has_curl = shutil.which("curl")
        self.file = self.make_file("file", options.size)

    def make_file(self, name, mib):
        path = os.path.join(self.directory, name)
        with open(path, "wb") as file:
            for _ in range(mib):
                file.write(os.urandom(1 << 20))
        return path

    def path(self, name):
        return os.path.join(self.directory, name)

    def openssl(self, path, name="openssl"):
        self.table.add(name, timed(["openssl", "dgst", "-sha256", path])[0])

    def curl(self, files, name, is_synced):
        """What it takes to fetch a file by HTTP and to hash it."""
        out = self.path("curl")
        settle(self.directory)
        took = timed(["curl", "-s", "-o", out, files.url])[0]
        took += timed(["openssl", "dgst", "-sha256", out])[0]
        if is_synced:
            took += timed(["sync", out])[0]
        os.remove(out)
        self.table.add(name, took)

    def fetch(self, serve, address, path, name, library=None):
        """Fetches through a private peer with a new directory; the CPU time of all three processes."""
        client, out = self.path("client"), self.path("out")
        settle(self.directory)
        before = cpu_of_children() + cpu_of(serve.child.pid)
        took, _ = timed([STREW, "fetch", "-d", client, "-p", serve.address, "-o", out, address], library, **QUIET)
        cpu = cpu_of_children() + cpu_of(serve.child.pid) - before
        subprocess.run(["cmp", path, out], check=True)
        os.remove(out)
        shutil.rmtree(client)
        self.table.add(name, took)
        return cpu

    def transfers(self):
        """A large file: shared, and fetched, by turns with the references."""
        with Files(self.file) as files:
            for _ in range(self.runs):
                for form in FORMS:
                    with Serve(self.path("peer")) as serve:
                        self.transfer(serve, files, form)
                    shutil.rmtree(self.path("peer"))

    def transfer(self, serve, files, form):
        plain = ["--plain"] if form == "plain" else []
        settle(self.directory)
        self.openssl(self.file)
        self.openssl(self.file, "openssl before " + form)
        took, address = timed([STREW, "share", "-d", serve.directory, "--min-copies", "0", *plain, self.file], **QUIET)
        self.table.add("share " + form, took)
        for is_synced in (True, False):
            name = "" if is_synced else ", not synced"
            if not is_synced and not self.library:
                continue
            if self.has_curl:
                self.curl(files, "curl" + name, is_synced)
                self.table.add(f"curl before {form}{name}", self.table.figures["curl" + name][-1])
            library = None if is_synced else self.library
            cpu = self.fetch(serve, address, self.file, f"fetch {form}{name}", library)
            if is_synced:
                self.table.add("cpu " + form, cpu)

    def report_transfers(self):
        table, mib = self.table, self.size
        print(f"\n{mib} MiB of random bytes, medians of {self.runs} runs, ratios within a run")
        say("openssl dgst -sha256", seconds(table.median("openssl")))
        for form, limit in zip(FORMS, (3.2, 2.5)):
            name = "share " + form
            ratio = table.ratio(name, "openssl before " + form)
            say(f"{name}, durable", seconds(table.median(name)), f"{ratio:.2f} x openssl", f"<= {limit}",
                judged(ratio, limit))
        if not self.has_curl:
            print("curl is not installed: fetches have no reference")
        if not self.library:
            print("cc is not installed: nothing is measured without its syncs")
        for is_synced in (True, False):
            rest = "" if is_synced else ", not synced"
            if self.has_curl and "curl" + rest in table:
                what = "curl + openssl dgst" + (" + sync FILE" if is_synced else "")
                say(what, seconds(table.median("curl" + rest)))
            for form, limit in zip(FORMS, (0.9, 0.8)):
                name = f"fetch {form}{rest}"
                if name not in table:
                    continue
                ratio, verdict, bound = "", "", ""
                if self.has_curl:
                    value = table.ratio(name, f"curl before {form}{rest}")
                    ratio = f"{value:.2f} x that"
                    if is_synced:
                        bound, verdict = f"<= {limit}", judged(value, limit)
                say(name if rest else name + ", synced", seconds(table.median(name)), ratio, bound, verdict)
        for form in FORMS:
            value = table.median("cpu " + form)
            limit = CPU_MAX * mib / 1024
            has_limit = form == "encrypted"
            say(f"CPU time of a fetch {form}, all three processes", seconds(value), "",
                f"<= {limit:.2f} s" if has_limit else "", judged(value, limit) if has_limit else "")
            reference = f"curl before {form}, not synced"
            if has_limit and reference in table:
                ratio = table.ratio("cpu " + form, reference)
                say("  in what curl + openssl dgst take", "", f"{ratio:.2f} x that", f"<= {CPU_RATIO_MAX}",
                    judged(ratio, CPU_RATIO_MAX))

    def small(self):
        """A file that is fetched before one has looked: what starting, joining and finding take."""
        path = self.make_file("small", 64)
        with Serve(self.path("peer")) as serve, Files(path) as files:
            _, address = timed([STREW, "share", "-d", serve.directory, "--min-copies", "0", path], **QUIET)
            for _ in range(max(self.runs, 5)):
                if self.has_curl:
                    self.curl(files, "curl small", False)
                self.fetch(serve, address, path, "fetch small")
        shutil.rmtree(self.path("peer"))
        print("\n64 MiB")
        if self.has_curl:
            say("curl + openssl dgst", seconds(self.table.median("curl small")))
        took = self.table.median("fetch small")
        say("fetch, from start to end, synced", seconds(took), "", f"<= {SMALL_MAX} s", judged(took, SMALL_MAX))

    def again(self):
        """A fetch that goes on from all but the last MiB: what it takes to verify what is there."""
        client, out = self.path("client"), self.path("out")
        with Serve(self.path("peer")) as serve:
            for form in FORMS:
                plain = ["--plain"] if form == "plain" else []
                _, address = timed(
                    [STREW, "share", "-d", serve.directory, "--min-copies", "0", *plain, self.file], **QUIET)
                for _ in range(self.runs):
                    shutil.copy(self.file, out + ".part")
                    os.truncate(out + ".part", (self.size - 1) << 20)
                    settle(self.directory)
                    self.openssl(self.file, "openssl before again " + form)
                    took, _ = timed([STREW, "fetch", "-d", client, "-p", serve.address, "-o", out, address], **QUIET)
                    self.table.add("again " + form, took)
                    os.remove(out)
                    shutil.rmtree(client)
        shutil.rmtree(self.path("peer"))
        print(f"\n{self.size} MiB, fetched again where all but 1 MiB is in FILE.part")
        for form in FORMS:
            rate = self.table.ratio("openssl before again " + form, "again " + form)
            say(form, seconds(self.table.median("again " + form)), f"{rate:.2f} x openssl's rate",
                f">= {AGAIN_MIN}", judged(rate, AGAIN_MIN, True))

    def copies(self):
        """A file shared to four peers, each of which keeps a copy."""
        mib = self.size // 4
        path = self.make_file("copied", mib)
        for run in range(self.runs):
            written = [self.path(f"written{n}") for n in range(4)]
            settle(self.directory)
            began = time.monotonic()
            writers = [
                subprocess.Popen(["dd", f"if={path}", f"of={out}", "bs=256K", "conv=fdatasync"], env=ENV, **QUIET)
                for out in written]
            for writer in writers:
                writer.wait()
            self.table.add("written", time.monotonic() - began)
            for out in written:
                os.remove(out)
            peers = [Serve(self.path("peer0"))]
            peers += [Serve(self.path(f"peer{n}"), "-p", peers[0].address) for n in range(1, 4)]
            try:
                await_true("four peers that know each other", lambda: all(
                    peer.status()["mode"] == "peer" and peer.status()["contacts"] >= 3 for peer in peers))
                settle(self.directory)
                client = self.path("client")
                seeds = [word for peer in peers for word in ("-p", peer.address)]
                took, _ = timed(
                    [STREW, "share", "-d", client, *seeds, "--copies", "4", "--min-copies", "4", "--plain", path],
                    **QUIET)
                self.table.add("copied", took)
            finally:
                for peer in peers:
                    peer.__exit__()
                    shutil.rmtree(peer.directory)
            shutil.rmtree(client)
        print(f"\n{mib} MiB to four peers, 4 copies beside the own one")
        say("dd of it to four files at once, synced", seconds(self.table.median("written")))
        share = statistics.median(a / b for a, b in zip(self.table.figures["written"], self.table.figures["copied"]))
        say("share --copies 4 --plain", seconds(self.table.median("copied")), f"{share * 100:.0f} % of its speed",
            ">= 60 %", judged(share, 0.6, True))

    def pings(self):
        """How peers answer others, and how long the steps of their loops are, while they are busy."""
        print(f"\nPINGs every 2 ms, and steps of the loop, while {self.size} MiB pass")
        if not self.program:
            return print("cargo is not installed: nobody pings")
        directory, client, out = self.path("peer"), self.path("client"), self.path("out")
        with Serve(directory) as serve, Pings(self.program, serve.address) as pings:
            _, address = timed(
                [STREW, "share", "-d", directory, "--min-copies", "0", self.file], **QUIET)
            steps = serve.status()
        self.say_pings("share: the peer", pings.results[0], steps)
        for heat in ("warm", "cold"):
            if heat == "cold":
                forget(os.path.join(directory, "pack"))
            settle(self.directory)
            with Serve(directory) as serve:
                fetch = subprocess.Popen(
                    [STREW, "fetch", "-d", client, "-p", serve.address, "-o", out, address], env=ENV, **QUIET)
                own = self.listens(client)
                steps = {}
                with Pings(self.program, serve.address, own) as pings:
                    while fetch.poll() is None:
                        time.sleep(0.1)
                        if os.path.exists(out + ".part") and os.stat(out + ".part").st_size > self.size << 19:
                            steps = steps or status(client)
                steps = [serve.status(), steps]
            os.remove(out)
            shutil.rmtree(client)
            for who, result, step in zip(("its source", "its own peer"), pings.results, steps):
                self.say_pings(f"fetch, {heat}: {who}", result, step)
        shutil.rmtree(directory)

    @staticmethod
    def listens(client):
        """Where the private peer listens that a client is starting."""
        await_true("a private peer", lambda: os.path.exists(os.path.join(client, "control.sock")))
        return status(client)["listen"].replace("[::]", "127.0.0.1").replace("0.0.0.0", "127.0.0.1")

    @staticmethod
    def say_pings(who, result, steps):
        answered, lost, p50, p99, most = result
        say(who, f"{p99:.2f} ms", f"{p50:.2f} at p50, {most:.1f} max", f"<= {PING_MAX} ms", judged(p99, PING_MAX))
        if lost:
            say("", f"{lost:.0f} lost", f"of {answered + lost:.0f}")
        if "step_p99" in steps:
            p50, p99, most = (steps[key] / 1000 for key in ("step_p50", "step_p99", "slowest_step"))
            say("  its steps", f"{p99:.2f} ms", f"{p50:.2f} at p50, {most:.1f} max", f"<= {STEP_MAX} ms",
                judged(p99, STEP_MAX))

    def find_node(self):
        """Requests that a peer with a full neighbourhood answers in a second, on a core of its own."""
        print("\nFIND_NODE, 16 in flight, one peer on one core")
        if not self.program:
            return print("cargo is not installed: nobody asks")
        pin = [["taskset", "-c", core] for core in ("0", "1")] if shutil.which("taskset") else [[], []]
        peers = [Serve(self.path("asked"), prefix=pin[0])]
        try:
            for n in range(NEIGHBOURS):
                peers.append(Serve(self.path(f"near{n}"), "-p", peers[0].address, prefix=pin[0]))
            await_true("its neighbours", lambda: peers[0].status()["contacts"] >= NEIGHBOURS)
            for _ in range(self.runs):
                before = cpu_of(peers[0].child.pid)
                rate, size, lost = self.ask(pin[1], peers[0].address)
                self.table.add("find node", rate)
                self.table.add("find node cpu", (cpu_of(peers[0].child.pid) - before) / (rate * ASKED) * 1e6)
                with Echo(self.program, int(size), pin[0]) as echo:
                    self.table.add("echo", self.ask(pin[1], echo.address)[0])
        finally:
            for peer in peers:
                peer.__exit__()
                shutil.rmtree(peer.directory)
        rate = self.table.median("find node")
        say("answered in a second", f"{rate:.0f}", f"replies of {size:.0f} bytes", f">= {FIND_NODE_MIN}",
            judged(rate, FIND_NODE_MIN, True))
        say("CPU time of each", f"{self.table.median('find node cpu'):.1f} us")
        say("a bare echo of as many bytes, by mio", f"{self.table.median('echo'):.0f}",
            f"{self.table.ratio('find node', 'echo') * 100:.0f} % of it")
        if lost:
            say("", f"{lost:.0f} lost")

    def ask(self, pin, address):
        """Requests answered in a second, the bytes of each reply, and requests lost."""
        return [float(word) for word in timed([*pin, self.program, "find-node", address, str(ASKED)])[1].split()]


def report_memory(peak):
    print("\nPeak anonymous memory of any process, all of the above")
    names = {"__private": "private peer", "__sync": "what syncs for a peer"}
    for name, bytes_ in sorted(peak.items()):
        mib = bytes_ / (1 << 20)
        say(names.get(name, name), f"{mib:.1f} MiB", "", f"<= {MEMORY_MAX} MiB", judged(mib, MEMORY_MAX))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="MiB")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--directory", default=None, help="where to work, some 6 times the size")
    rows = ("transfers", "small", "again", "copies", "pings", "find_node")
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(rows)}; all if none is named")
    options = parser.parse_args()
    for tool in ("openssl", "cmp", "dd", "sync"):
        if not shutil.which(tool):
            sys.exit(f"bench: {tool} not found")
    adopt_orphans()
    directory = workplace(options.directory)
    memory = Memory()
    memory.start()
    try:
        bench = Bench(options, directory)
        for row in options.rows or rows:
            getattr(bench, row)()
            if row == "transfers":
                bench.report_transfers()
    finally:
        memory.ended.set()
        shutil.rmtree(directory)
    report_memory(memory.peak)


main()
