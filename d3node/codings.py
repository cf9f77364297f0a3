"""Names of the ways in which boundary tensors may be coded; plans name them, `d3node.codec` does it.

Apart from the codec because plans and topologies are read where numpy is not (`mn --custom` of the OS package).
"""

from __future__ import annotations

from typing import Literal, get_args

Coding = Literal["float32", "int8-shuffle-deflate", "sign-bits"]
CODINGS: tuple[Coding, ...] = get_args(Coding)
