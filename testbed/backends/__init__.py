"""Backends: build the network, start the agents, change links, read counters. What differs between them is clock and network."""
