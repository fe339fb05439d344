#!/usr/bin/env python3
"""Addresses of files of known content, computed from the manual's description and from nothing of strew's.

Usage: vectors.py [SIZE... | directory]

Prints lines "SIZE FORM ADDRESS[.KEY]" for each size, or for all of SIZES. Byte i of a file is i modulo 251. "directory"
instead of a size is the directory that the manual describes.
Standard library only. All sizes take some 15 seconds, nearly all of it for 300 MiB encrypted;
the others alone less than one.
"""

import hashlib
import sys
from array import array

SIZES = [0, 1, 262118, 262119, 262134, 262135, 262143, 262144, 262145, 3145728, 314572800, "directory"]

BLOCK = 262144
FAN_OUT = 1024
LEAF, NODE, ROOT = 1, 2, 3

# ChaCha20 (RFC 8439) for all 4,096 blocks of a payload at once: each word of the state is one long integer
# with a lane of 64 bits for each block, of which the lower 32 hold the word and the upper take what overflows.
LANES = BLOCK // 64
ONES = int.from_bytes(b"\1\0\0\0\0\0\0\0" * LANES, "little")
MASK = ONES * 0xFFFFFFFF
COUNTERS = int.from_bytes(b"".join(i.to_bytes(8, "little") for i in range(LANES)), "little")
CONSTANTS = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574]
ROUND = [
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
]


def key_stream(key, size):
    """The first bytes of the stream of a key, nonce and first counter zero."""
    lanes = -(-size // 64)
    keep = (1 << (64 * lanes)) - 1
    ones, mask = ONES & keep, MASK & keep
    words = [int.from_bytes(key[i:i + 4], "little") for i in range(0, 32, 4)]
    start = [ones * word for word in CONSTANTS + words] + [COUNTERS & keep, 0, 0, 0]
    state = list(start)

    def step(a, b, d, count):
        state[a] = (state[a] + state[b]) & mask
        turned = (state[d] ^ state[a]) << count
        state[d] = (turned | turned >> 32) & mask

    for _ in range(10):
        for a, b, c, d in ROUND:
            step(a, b, d, 16)
            step(c, d, b, 12)
            step(a, b, d, 8)
            step(c, d, b, 7)
    # Words lie side by side in a block of the stream, least significant byte first.
    stream = array("I", bytes(64 * lanes))
    assert stream.itemsize == 4
    for i in range(16):
        word = array("I", ((state[i] + start[i]) & mask).to_bytes(8 * lanes, "little"))
        stream[i::16] = word[::2] if sys.byteorder == "little" else swapped(word[::2])
    return stream.tobytes()[:size]


def swapped(words):
    words.byteswap()
    return words


def encrypt(key, data):
    mixed = int.from_bytes(data, "little") ^ int.from_bytes(key_stream(key, len(data)), "little")
    return mixed.to_bytes(len(data), "little")


# RFC 8439, appendix A.1, test vectors 1 and 2: the first two blocks of the stream of the zero key.
assert key_stream(bytes(32), 128)[:4].hex() == "76b8e0ad"
assert key_stream(bytes(32), 128)[64:68].hex() == "9f07e7be"


def block(role, encrypted, clear, hidden):
    """Address and key of a block whose payload is a clear part and one that is encrypted in that form."""
    kind = bytes([role + (4 if encrypted else 0)])
    key = b""
    if encrypted:
        key = hashlib.sha256(b"strew key 1" + bytes(32) + kind + clear + hidden).digest()
        hidden = encrypt(key, hidden)
    assert 1 <= len(clear) + len(hidden) <= BLOCK
    return hashlib.sha256(kind + clear + hidden).digest(), key


def root(flags, size, encrypted, data, members):
    header = bytes([1, flags]) + size.to_bytes(8, "big")
    proof = bytes(16) if encrypted else b""
    addresses = b"".join(address for address, _ in members)
    keys = b"".join(key for _, key in members)
    return block(ROOT, encrypted, header + addresses, proof + data + keys)


def content(start, size):
    skip = start % 251
    return (bytes(range(251)) * ((skip + size) // 251 + 1))[skip:skip + size]


def tree(flags, size, encrypted, part):
    """Address and key of a file or directory, of whose bytes part(start, size) gives some."""
    if 10 + (16 if encrypted else 0) + size <= BLOCK:
        return root(flags, size, encrypted, part(0, size), [])
    members = [
        block(LEAF, encrypted, b"", part(start, min(BLOCK, size - start)))
        for start in range(0, size, BLOCK)
    ]
    while len(members) > FAN_OUT:
        parts = [members[i:i + FAN_OUT] for i in range(0, len(members), FAN_OUT)]
        members = [
            block(NODE, encrypted, b"".join(a for a, _ in part), b"".join(k for _, k in part))
            for part in parts
        ]
    return root(flags, size, encrypted, b"", members)


def entry(kind, path, rest=b""):
    return bytes([kind]) + len(path).to_bytes(2, "big") + path + rest


def directory():
    """The stream of the directory in the manual."""
    number = lambda n: n.to_bytes(8, "big")
    target = b"a/short"
    listing = b"".join([
        entry(4, b"a"),
        entry(1, b"a/long", number(300000)),
        entry(1, b"a/short", number(5)),
        entry(3, b"link", len(target).to_bytes(2, "big") + target),
        entry(2, b"run", number(1)),
    ])
    stream = number(len(listing)) + listing + content(0, 5) + content(0, 1)
    return stream + bytes(-len(stream) % BLOCK) + content(0, 300000)


for word in sys.argv[1:] or SIZES:
    for form in ["plain", "encrypted"]:
        if word == "directory":
            stream = directory()
            part = lambda start, size: stream[start:start + size]
            address, key = tree(1, len(stream), form == "encrypted", part)
        else:
            address, key = tree(0, int(word), form == "encrypted", content)
        print(word, form, address.hex() + ("." + key.hex() if key else ""), flush=True)
