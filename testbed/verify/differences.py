"""Two runs of one scenario, request by request: how far apart latencies and backbone bytes are, and where plans differed.

A request is paired with the one of the same model, planner, device and number. Estimates of the network differ a little between
two networks, so a planner may change its mind one request earlier or later; such pairs are counted in all figures and shown by
themselves too. Running the scenario, and what is too far apart, is `testbed.verify.backends`' business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from testbed.errors import InputError
from testbed.report.run import Run

PAIRED_BY = ("model", "planner", "device", "warmup", "request")


@dataclass(frozen=True)
class Spread:
    """Absolute differences as shares of the reference: median, 95th percentile and worst. NaN without any."""

    median: float
    p95: float
    worst: float

    @classmethod
    def of(cls, shares: Sequence[float]) -> Spread:
        """The spread of some signed shares."""
        if not len(shares):
            return cls(np.nan, np.nan, np.nan)
        size = np.abs(np.asarray(shares, float))
        return cls(float(np.median(size)), float(np.percentile(size, 95, method="higher")), float(size.max()))


@dataclass(frozen=True)
class Session:
    """One model and planner in both runs, over their measured requests.

    `latency` is over requests that both answered, `latency_same_plan` over those of them with the same plan in both. `bias` is
    the median of the signed latency differences. `backbone` compares the requests' application bytes towards the cloud one by
    one, `volume` (first, second) are their sums. `wire` are the bytes of all frames on the wide-area links in both directions:
    probes, warm-up, acknowledgements and what is sent again included.
    """

    model: str
    planner: str
    requests: int
    answered: int
    failed_in_one: int
    other_plan: int
    latency: Spread
    bias: float
    latency_same_plan: Spread
    backbone: Spread
    backbone_same_plan: Spread
    volume: tuple[float, float]
    wire: tuple[float, float]

    @property
    def volume_difference(self) -> float:
        """Relative difference of the requests' bytes together."""
        return share(*self.volume)

    @property
    def wire_difference(self) -> float:
        """Relative difference of the bytes of frames."""
        return share(*self.wire)


def share(value: float, reference: float) -> float:
    """(value - reference) / reference; 0 where both are 0, infinite where only the reference is."""
    if value == reference:
        return 0.0
    return (value - reference) / reference if reference else float("inf")


def paired(run: Run, reference: Run) -> pd.DataFrame:
    """A row per request that both runs have: names, `latency_s`, `latency_s_reference`, `latency_difference` (share of the
    reference), the same for `backbone_bytes`, and `same_plan`. Raises InputError for runs without a request in common."""
    columns = [*PAIRED_BY, "submitted_s", "latency_s", "backbone_bytes", "error", "epoch"]
    both = run.inferences[columns].merge(
        reference.inferences[columns], on=list(PAIRED_BY), suffixes=("", "_reference"), validate="one_to_one"
    )
    if both.empty:
        raise InputError(f"{run.path} and {reference.path} have no request in common: nothing to compare")
    plans, theirs = _placements(run), _placements(reference)
    both["same_plan"] = [
        plans.get(int(mine), "") == theirs.get(int(other), "")
        for mine, other in zip(both["epoch"], both["epoch_reference"], strict=True)
    ]
    both["latency_difference"] = (both["latency_s"] - both["latency_s_reference"]) / both["latency_s_reference"]
    both["backbone_difference"] = [
        share(a, b) for a, b in zip(both["backbone_bytes"], both["backbone_bytes_reference"], strict=True)
    ]
    return both.drop(columns=["epoch", "epoch_reference"])


def sessions(run: Run, reference: Run, both: pd.DataFrame) -> list[Session]:
    """The figures of every model and planner; `both` is what `paired` found."""
    found = []
    measured = both[~both["warmup"].astype(bool)]
    for (model, planner), rows in measured.groupby(["model", "planner"], sort=False):
        answered = rows[rows["latency_difference"].notna()]
        same = answered[answered["same_plan"]]
        bias = float(answered["latency_difference"].median()) if len(answered) else float("nan")
        found.append(
            Session(
                model=str(model),
                planner=str(planner),
                requests=len(rows),
                answered=len(answered),
                failed_in_one=int((rows["latency_s"].isna() != rows["latency_s_reference"].isna()).sum()),
                other_plan=int((~rows["same_plan"]).sum()),
                latency=Spread.of(answered["latency_difference"].tolist()),
                bias=bias,
                latency_same_plan=Spread.of(same["latency_difference"].tolist()),
                backbone=Spread.of(answered["backbone_difference"].tolist()),
                backbone_same_plan=Spread.of(same["backbone_difference"].tolist()),
                volume=(float(answered["backbone_bytes"].sum()), float(answered["backbone_bytes_reference"].sum())),
                wire=(_wire_bytes(run, str(model), str(planner)), _wire_bytes(reference, str(model), str(planner))),
            )
        )
    return found


def _placements(run: Run) -> dict[int, str]:
    """What each installed plan puts where, as text that is equal for equal plans; by epoch."""
    found: dict[int, str] = {}
    for record in run.plans.to_dict(orient="records"):
        plan = record.get("plan")
        if isinstance(plan, Mapping):
            found[int(record["epoch"])] = json.dumps([plan["tiers"], plan["hosts"], plan["stacks"]], sort_keys=True)
    return found


def _wire_bytes(run: Run, model: str, planner: str) -> float:
    wide = run.manifest.get("wide_area_links", [])
    links = run.links
    own = (links["model"] == model) & (links["planner"] == planner) & (links["kind"] == "total") & links["link"].isin(wide)
    return float(links[own]["wire_bytes"].sum())
