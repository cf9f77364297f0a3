"""What all sessions of a run share."""

from __future__ import annotations

from dataclasses import dataclass, field

from testbed.backends.base import Session
from testbed.orchestrator.control import Fleet
from testbed.orchestrator.epochs import Epochs
from testbed.orchestrator.fidelity import PairFacts
from testbed.orchestrator.journal import Journal
from testbed.orchestrator.replay import Replay
from testbed.orchestrator.results import Recorder
from testbed.orchestrator.trail import Trail
from testbed.orchestrator.truth import TrueState
from testbed.orchestrator.verify import Verifier
from testbed.orchestrator.walltime import WallLimit
from testbed.orchestrator.world import World


@dataclass
class Stage:
    """A started network with everything that is known of it, and where results go."""

    world: World
    session: Session
    fleet: Fleet
    epochs: Epochs
    truth: TrueState
    replay: Replay
    folder: Recorder
    journal: Journal
    verifier: Verifier
    limit: WallLimit
    trail: Trail = field(default_factory=Trail)
    facts: list[PairFacts] = field(default_factory=list)
