"""Sweeps: one scenario over models, planners, traces, parameters and seeds, cell by cell, resumable.

plan = testbed.sweep.plan(testbed.sweep.read("quickstart_sweep"))
testbed.sweep.execute(plan, "runs/mine")
testbed.sweep.load("runs/mine").groupby(["model", "planner"]).mean_s.median()
"""

from testbed.sweep.execute import execute
from testbed.sweep.folder import load
from testbed.sweep.plan import Plan, plan
from testbed.sweep.spec import Spec, read

__all__ = ["Plan", "Spec", "execute", "load", "plan", "read"]
