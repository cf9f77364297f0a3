"""How long something really took, asked from inside the guest, where every clock is virtual: the processor's own counter.

User-mode Linux runs its programs on the bare processor, so its time stamp counter counts there as it does outside. The host side
finds its rate; x86-64 only, as the guest.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import time

_CODE = bytes.fromhex("0f3148c1e2204809d0c3")
"""rdtsc; shl rdx, 32; or rax, rdx; ret"""

_CALIBRATION_S = 0.02


class Stopwatch:
    """Call it for seconds since some moment, at `ticks_per_s`; nan for ever where the counter cannot be read."""

    def __init__(self, ticks_per_s: float) -> None:
        self._rate = ticks_per_s
        try:
            self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        except OSError:  # a system that lets no program write code
            self._rate = math.nan
            return
        self._page.write(_CODE)
        place = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._read = ctypes.CFUNCTYPE(ctypes.c_uint64)(place)

    def __call__(self) -> float:
        """Seconds."""
        return math.nan if math.isnan(self._rate) else self._read() / self._rate


def ticks_per_s() -> float:
    """Rate of the counter, measured against this machine's clock in a moment; nan where it cannot be."""
    counter = Stopwatch(1.0)
    first, start = counter(), time.perf_counter()
    time.sleep(_CALIBRATION_S)
    last, end = counter(), time.perf_counter()
    return (last - first) / (end - start)
