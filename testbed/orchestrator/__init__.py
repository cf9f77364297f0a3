"""The control loop: replay -> observe -> (re)plan -> install -> submit requests -> record, and the run folder it leaves."""

from testbed.orchestrator.batch import Ended, Task, run_many
from testbed.orchestrator.experiment import finished, resume, run
from testbed.orchestrator.journal import Listener
from testbed.orchestrator.summary import PairSummary, RunSummary, pooled, summaries, summarise

__all__ = [
    "Ended",
    "Listener",
    "PairSummary",
    "RunSummary",
    "Task",
    "finished",
    "pooled",
    "resume",
    "run",
    "run_many",
    "summaries",
    "summarise",
]
