"""Decomposed DNN inference over device, edge and cloud on an emulated network: scenarios, planners, backends, orchestrator."""

__version__ = "0.1.0"
