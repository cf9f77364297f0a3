"""What runs on one host of the testbed: layer graphs, parts and tiles, the wire protocol and the node agent.

Leaves planning, networks and scenarios to `testbed`, which it never imports. Importing `d3node` does not import torch:
`graph`, `plan`, `program` and `intervals` are plain data, so planners can use them without it.
"""
