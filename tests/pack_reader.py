#!/usr/bin/env python3
"""Lists and verifies a pack. Written from strew-pack(5) alone, so that the page is known to suffice.

usage: pack_reader.py PACK     one line for each block; exit status 0 if all is sound, 6 if not
"""
import hashlib
import struct
import sys
import zlib

KINDS = {1: "leaf", 2: "node", 3: "root", 5: "leaf*", 6: "node*", 7: "root*"}


def header_at(data, pack_id, at):
    """Type, kind, length, address, time, payload CRC and extent of the valid header there, or None."""
    head = data[at : at + 64]
    if len(head) < 64 or head[:8] != pack_id[:8]:
        return None
    kind_of_record, kind, length, address, time, crc, own = struct.unpack(">8xBB2xI32sI4xII", head)
    extent = (64 + length + 7) // 8 * 8
    bound = zlib.crc32(pack_id + struct.pack(">Q", at) + head[:60])
    possible = length <= 262144 and (length > 0 or kind_of_record != 1)
    if own != bound or not possible or at + extent > len(data):
        return None
    return kind_of_record, kind, length, address, time, crc, extent


def main(path):
    with open(path, "rb") as file:
        data = file.read()
    magic, version, crc, pack_id = struct.unpack(">8sII32s16x", data[:64].ljust(64, b"\0"))
    if magic != b"STREWPAK" or version != 1 or zlib.crc32(data[:12] + bytes(4) + data[16:64]) != crc:
        print("bad file header")
        return 6
    status, at, seen = 0, 64, set()
    while at < len(data):
        header = header_at(data, pack_id, at)
        if header is None:
            later = (to for to in range(at + 8, len(data), 8) if header_at(data, pack_id, to))
            end = next(later, len(data))
            print(f"{'torn tail' if end == len(data) else 'damaged'}: {end - at} bytes at {at}")
            status, at = 6, end
            continue
        kind_of_record, kind, length, address, time, crc, extent = header
        payload = data[at + 64 : at + 64 + length]
        if zlib.crc32(payload) != crc:
            print(f"damaged: {extent} bytes at {at}")
            status = 6
        elif kind_of_record == 1 and kind in KINDS and address not in seen:
            seen.add(address)
            print(address.hex(), KINDS[kind], length, time)
            if hashlib.sha256(bytes([kind]) + payload).digest() != address:
                print(f"damaged: the address at {at} is another block's")
                status = 6
        at += extent
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
