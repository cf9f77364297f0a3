"""The control loop: replay -> observe -> (re)plan -> install -> submit requests -> record, and the run folder it leaves."""

from testbed.orchestrator.experiment import run
from testbed.orchestrator.journal import Listener
from testbed.orchestrator.summary import PairSummary, RunSummary, summarise

__all__ = ["Listener", "PairSummary", "RunSummary", "run", "summarise"]
