#!/usr/bin/env python3
"""Lists and verifies a pack. Written from strew-pack(5) alone, so that the page is known to suffice.

usage: pack_reader.py PACK     one line for each block and pin; exit status 0 if all is sound, 6 if not
"""
import hashlib
import struct
import sys
import zlib

KINDS = {1: "leaf", 2: "node", 3: "root", 5: "leaf*", 6: "node*", 7: "root*"}


def id_of(header):
    """The pack id that a file header tells, or None."""
    magic, version, crc, pack_id = struct.unpack(">8sII32s16x", header.ljust(64, b"\0"))
    sound = zlib.crc32(header[:12] + bytes(4) + header[16:]) == crc
    return pack_id if magic == b"STREWPAK" and version == 1 and sound else None


def header_at(data, pack_id, at):
    """Type, kind, flags, length, address, time, end, payload CRC and extent of the valid header there, or None."""
    head = data[at : at + 64]
    if len(head) < 64 or head[:8] != pack_id[:8]:
        return None
    fields = struct.unpack(">8xBBBxI32sIIII", head)
    kind_of_record, length, own = fields[0], fields[3], fields[8]
    extent = (64 + length + 7) // 8 * 8
    bound = zlib.crc32(pack_id + struct.pack(">Q", at) + head[:60])
    possible = length <= 262144 and (length > 0 or kind_of_record != 1)
    if own != bound or not possible or at + extent > len(data):
        return None
    return fields[:8] + (extent,)


def statements(payload, layout, at):
    """The statements of a note at this offset that speak of what is before it."""
    whole = len(payload) // 16 * 16
    return [it for it in struct.iter_unpack(layout, payload[:whole]) if it[0] < at]


def without(stretch, gaps):
    """What of a stretch lies in no gap."""
    start, end = stretch
    for gap_start, gap_end in sorted(gaps):
        if start < gap_start < end:
            yield start, gap_start
        if gap_start <= start < gap_end or start < gap_start < end:
            start = max(start, gap_end)
    if start < end:
        yield start, end


def main(path):
    with open(path, "rb") as file:
        data = file.read()
    ids = {pack_id for pack_id in (id_of(data[:64]), id_of(data[4096:4160])) if pack_id}
    if len(ids) != 1:
        print("bad file header")
        return 6
    pack_id = ids.pop()
    status, at, doubtful, damaged, records, gaps, terms = 0, 4160, [], [], [], [], {}
    while at < len(data):
        header = header_at(data, pack_id, at)
        if header is None:
            later = (to for to in range(at + 8, len(data), 8) if header_at(data, pack_id, to))
            end = next(later, len(data))
            doubtful.append((at, end))
            at = end
            continue
        kind_of_record, kind, flags, length, address, time, until, crc, extent = header
        payload = data[at + 64 : at + 64 + length]
        if zlib.crc32(payload) != crc:
            doubtful.append((at, at + extent))
        else:
            damaged, doubtful = damaged + doubtful, []
            records.append((at, header, payload))
            if kind_of_record == 2:
                gaps += [(start, start + size) for start, size in statements(payload, ">QQ", at)]
            elif kind_of_record == 3:
                terms.update({to: rest for to, *rest in statements(payload, ">QII", at)})
        at += extent
    seen, pins = set(), {}
    for at, header, payload in records:
        kind_of_record, kind, flags, length, address, time, until, crc, extent = header
        if any(start <= at < end for start, end in gaps):
            continue
        if kind_of_record == 4:
            pins[address] = struct.unpack(">Q", payload)[0]
        if kind_of_record == 1 and kind in KINDS and address not in seen:
            seen.add(address)
            until, flags = terms.get(at, (until, flags))
            print(address.hex(), KINDS[kind], length, time, until, "kept" if flags & 1 else "-")
            if hashlib.sha256(bytes([kind]) + payload).digest() != address:
                print(f"damaged: the address at {at} is another block's")
                status = 6
    for address, length in sorted(pins.items()):
        print("pin", address.hex(), length)
    for stretch in damaged:
        for start, end in without(stretch, gaps):
            print(f"damaged: {end - start} bytes at {start}")
            status = 6
    if doubtful:
        print(f"torn tail: {len(data) - doubtful[0][0]} bytes at {doubtful[0][0]}")
        status = 6
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
