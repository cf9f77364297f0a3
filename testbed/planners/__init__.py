"""Planners: pure functions from (graph, costs, network state) to a plan. No I/O, no torch, no clock."""
