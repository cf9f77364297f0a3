"""What a capture of a link says: bytes and frames per direction, and TCP payload per flow.

Framing: a frame counts with its Ethernet header (14 bytes) and without preamble, checksum and gap, as the kernel's class counters
count it. A frame that segmentation offload made longer than one segment counts as the frames that a real link would have carried
(66 bytes of headers per 1448 of payload). Files are streamed with scapy's raw reader, so that size does not matter.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from testbed.costs.network import FRAME_OVERHEAD, SEGMENT_PAYLOAD
from testbed.errors import RunError
from topologies.layout import Direction

_IPV4, _TCP = 0x0800, 6
_FULL_FRAME = FRAME_OVERHEAD + SEGMENT_PAYLOAD

Flow = tuple[str, int, str, int]
"""Source address and port, destination address and port."""


@dataclass
class Captured:
    """Totals of a capture. `payload` counts TCP payload bytes per flow, retransmissions included; `other` frames are not IPv4."""

    wire_bytes: dict[Direction, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    frames: dict[Direction, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    payload: dict[Flow, int] = field(default_factory=dict)
    other: int = 0


def read(path: Path, upstream: Collection[str]) -> Captured:
    """Totals of a pcap file. `upstream`: addresses of the hosts on the a side of the link; what they send goes up.

    Raises RunError for a file that is not a capture.
    """
    from scapy.error import Scapy_Exception
    from scapy.utils import RawPcapReader

    found = Captured()
    own = {bytes(int(part) for part in address.split(".")) for address in upstream}
    flows: dict[bytes, int] = {}
    try:
        with RawPcapReader(str(path)) as reader:
            for frame, metadata in reader:
                if len(frame) < 34 or (frame[12] << 8 | frame[13]) != _IPV4:
                    found.other += 1
                    continue
                direction: Direction = "up" if frame[26:30] in own else "down"
                length = metadata.wirelen
                start = 14 + (frame[14] & 0xF) * 4
                payload = 0
                if frame[23] == _TCP and len(frame) > start + 12:
                    # the IP length, because short frames may have been padded
                    payload = (frame[16] << 8 | frame[17]) - (start - 14) - (frame[start + 12] >> 4) * 4
                    key = frame[26:34] + frame[start : start + 4]
                    flows[key] = flows.get(key, 0) + payload
                if length > _FULL_FRAME:
                    length += (-(-payload // SEGMENT_PAYLOAD) - 1) * FRAME_OVERHEAD
                found.wire_bytes[direction] += length
                found.frames[direction] += 1
    except (Scapy_Exception, EOFError, OSError, struct.error) as error:
        raise RunError(f"{path} cannot be read as a packet capture: {error}") from error
    for key, payload in flows.items():
        ports = struct.unpack("!HH", key[8:12])
        found.payload[_dotted(key[:4]), ports[0], _dotted(key[4:8]), ports[1]] = payload
    return found


def _dotted(address: bytes) -> str:
    return ".".join(str(byte) for byte in address)
