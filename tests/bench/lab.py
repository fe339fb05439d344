"""What the benchmarks run: programs, a server of files, references, and what is sampled meanwhile."""

import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

STREW = os.path.realpath(os.environ.get("STREW", "target/release/strew"))
# The settings of whoever runs this are not the benchmark's.
ENV = {name: value for name, value in os.environ.items() if not name.startswith(("STREW_", "XDG_"))}
ENV["HOME"] = "/nonexistent"
QUIET = {"stderr": subprocess.DEVNULL}

PR_SET_CHILD_SUBREAPER = 36

# Children that run on; all others end by themselves.
RUNNING = []

# Preloaded, it makes a program forget that there are disks: for what a transfer takes without its syncs.
NO_SYNC = """
#define _GNU_SOURCE
#include <sys/types.h>
int fsync(int fd) { return 0; }
int fdatasync(int fd) { return 0; }
int sync_file_range(int fd, off64_t offset, off64_t bytes, unsigned flags) { return 0; }
"""


def adopt_orphans():
    """Private peers become children of this process when their clients end, and so tell what CPU time they took."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def cpu_of_children():
    """Seconds of CPU time of all children that have ended; private peers are waited for."""
    for pid in children() - {child.pid for child in RUNNING}:
        os.waitpid(pid, 0)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(pid) for pid in file.read().split()}


def cpu_of(pid):
    """Seconds of CPU time that a running process has taken so far."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def preload(directory):
    """A library that takes syncs away; None where there is no C compiler."""
    if not shutil.which("cc"):
        return None
    library = os.path.join(directory, "nosync.so")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", library, "-x", "c", "-"], input=NO_SYNC.encode(), check=True, **QUIET)
    return library


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


def timed(command, library=None, **options):
    """Seconds that a command takes, and what it prints; fails if it does."""
    env = ENV | ({"LD_PRELOAD": library} if library else {})
    began = time.monotonic()
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, **options)
    return time.monotonic() - began, done.stdout.decode().strip()


def await_true(what, look):
    """Waits until something is so, and fails if it does not come to be in a minute."""
    deadline = time.monotonic() + 60
    while not look():
        if time.monotonic() > deadline:
            sys.exit(f"bench: waited in vain for {what}")
        time.sleep(0.05)


def settle(path):
    """What was written to this file system before is not waited for by what is measured next."""
    fd = os.open(path, os.O_RDONLY)
    ctypes.CDLL(None).syncfs(fd)
    os.close(fd)


def forget(path):
    """Has the system drop a file from its cache: the next reading of it comes from the disk."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


class Serve:
    """A `strew serve` in a directory."""

    def __init__(self, directory, *options, prefix=()):
        self.directory = directory
        self.child = subprocess.Popen(
            [*prefix, STREW, "serve", "-d", directory, "-l", "127.0.0.1:0", "--capacity", "64G", *options],
            env=ENV, stdout=subprocess.PIPE, **QUIET)
        RUNNING.append(self.child)
        self.address = self.child.stdout.readline().decode().split()[1]

    def status(self):
        return status(self.directory)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait()
        self.child.stdout.close()
        RUNNING.remove(self.child)


def status(directory):
    return json.loads(timed([STREW, "status", "-v", "--json", "-d", directory], **QUIET)[1])


class Files:
    """Serves one file by HTTP, in a process of its own, from the page cache to the socket with no copy."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.pid = 0
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.serve(listener, self.path)
            finally:
                os._exit(0)
        RUNNING.append(self)
        listener.close()
        return self

    def __exit__(self, *_):
        RUNNING.remove(self)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    @staticmethod
    def serve(listener, path):
        while True:
            conn, _ = listener.accept()
            with conn, open(path, "rb") as file:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += conn.recv(4096)
                head = f"HTTP/1.0 200 OK\r\nContent-Length: {os.stat(path).st_size}\r\n\r\n"
                conn.sendall(head.encode())
                try:
                    conn.sendfile(file)
                except OSError:
                    pass


class Pings:
    """Pings peers as long as it is open; then `results` has a line of numbers for each."""

    def __init__(self, program, *addresses):
        self.child = subprocess.Popen(
            [program, "ping", *addresses], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        RUNNING.append(self.child)
        self.results = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        out, _ = self.child.communicate()
        RUNNING.remove(self.child)
        self.results = [[float(word) for word in line.split()] for line in out.decode().splitlines()]


class Echo:
    """Answers datagrams with as many bytes, and no thought."""

    def __init__(self, program, size, prefix):
        self.child = subprocess.Popen([*prefix, program, "echo", str(size)], stdout=subprocess.PIPE)
        RUNNING.append(self.child)
        self.address = self.child.stdout.readline().decode().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait()
        self.child.stdout.close()
        RUNNING.remove(self.child)


def program(name):
    """The path of a benchmark program that cargo has built; None if there is no cargo."""
    cargo = os.environ.get("CARGO", "cargo")
    if not shutil.which(cargo):
        return None
    built = subprocess.run(
        [cargo, "bench", "--no-run", "--bench", name, "--message-format", "json"],
        stdout=subprocess.PIPE, check=True, **QUIET)
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    paths = [it["executable"] for it in messages if it.get("executable") and it["target"]["name"] == name]
    return paths[0]


def workplace(where):
    return tempfile.mkdtemp(prefix="strew-bench-", dir=where)
