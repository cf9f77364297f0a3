"""Power of a phone's radio while it sends: P = alpha x uplink throughput + beta, per technology.

The constants are those that JointDNN (arXiv 1801.08618) prints for its energy model, in mW per Mbit/s and mW. They were
measured on phones at rates that those networks had then; far above (a fast Wi-Fi) the line is an extrapolation.
"""

from __future__ import annotations

from dataclasses import dataclass

from testbed.costs.network import MESSAGE_HEADER_BYTES, Path, frame_bytes


@dataclass(frozen=True, slots=True)
class Radio:
    """Constants of one technology: mW per Mbit/s and mW while sending."""

    alpha_mw_per_mbps: float
    beta_mw: float

    def power_w(self, rate_bps: float) -> float:
        """Watts while sending at a rate."""
        return (self.alpha_mw_per_mbps * rate_bps / 1e6 + self.beta_mw) / 1e3

    def upload_j(self, payload_bytes: int, path: Path) -> float:
        """Joules to send a tensor over the first link: the radio is on while bits leave, not while they travel on."""
        rate_bps = max(path.rate_bps, 1e3)
        return self.power_w(rate_bps) * 8.0 * frame_bytes(payload_bytes + MESSAGE_HEADER_BYTES) / rate_bps


RADIOS: dict[str, Radio] = {
    "3g": Radio(868.98, 817.88),
    "4g": Radio(438.39, 1288.04),
    "wifi": Radio(283.17, 132.86),
}
