"""Who was fastest, and by how much: the sentences on top of a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from analysis.report.parts import Headline
from testbed.orchestrator.summary import PairSummary
from testbed.report import units

TIE = 0.005
"""Means that are this close (relative) count as equal."""


def headlines(pairs: Sequence[PairSummary], where: str = "") -> list[Headline]:
    """One for each model of a run."""
    found = []
    for model in dict.fromkeys(pair.model for pair in pairs):
        own = [pair for pair in pairs if pair.model == model]
        means = {pair.planner: pair.mean_s for pair in own}
        made = headline(model, means, where)
        if made is not None:
            first = fastest(means)
            traffic = _traffic({pair.planner: pair.backbone_bytes for pair in own}, first[0])
            loss = "".join(_loss(pair) for pair in own if pair.planner in first)
            found.append(Headline(made.about, made.winner, made.figure, made.words + traffic + loss, where))
    return found


def fastest(means: Mapping[str, float]) -> list[str]:
    """The planners with the shortest mean, those as good as that included; none where nobody has one."""
    known = {planner: mean for planner, mean in means.items() if math.isfinite(mean)}
    if not known:
        return []
    best = min(known.values())
    return sorted((planner for planner, mean in known.items() if mean <= best * (1 + TIE)), key=lambda planner: known[planner])


def headline(about: str, means: Mapping[str, float], where: str = "", what: str = "mean latency") -> Headline | None:
    """Who had the shortest mean (seconds by planner), and by how much; None where nobody has one."""
    first = fastest(means)
    if not first:
        return None
    best = means[first[0]]
    others = sorted((mean, planner) for planner, mean in means.items() if planner not in first and math.isfinite(mean))
    figure = f"{units.seconds(best)} {what}"
    if not others:
        words = "the only planner of this model" if len(means) == 1 else "no other planner does better or worse"
        return Headline(about, _listed(first), figure, words, where)
    ratios = [f"{mean / best:.2f}× as fast as {planner}" for mean, planner in (others[0], others[-1])]
    words = ", ".join(dict.fromkeys(ratios))
    return Headline(about, _listed(first), figure, words, where)


def _traffic(sent: Mapping[str, float], winner: str) -> str:
    """What the winner sends to the cloud, beside who sends most."""
    known = {planner: count for planner, count in sent.items() if math.isfinite(count)}
    if winner not in known or not known or max(known.values()) <= 0.0:
        return ""
    most = max(known, key=lambda planner: known[planner])
    own = f"; {units.size(known[winner])} per inference over the backbone"
    if most == winner or len(known) == 1:
        return own + (", the most of all" if len(known) > 1 and min(known.values()) < known[winner] else "")
    return f"{own}, {most} {units.size(known[most])}"


def _loss(pair: PairSummary) -> str:
    """What a lossy planner's speed is bought with."""
    if not pair.lossy:
        return ""
    shares = [(pair.agreement, "agree with the whole model's"), (pair.accuracy, "find the label")]
    told = [f"{units.percent(share)} of its answers {words}" for share, words in shares if math.isfinite(share)]
    return f"; {pair.planner} is lossy" + (f": {', '.join(told)}" if told else "")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
