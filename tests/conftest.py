"""What holds for the whole suite: Ctrl-C works in it, also as a background job; properties are not against the clock; tables have
the width that a test asks for."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# A shell starts background jobs with SIGINT ignored, and Python then installs no handler: tests that interrupt themselves or a
# child (which inherits "ignored") would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A width of the terminal that stands in the environment when the command line is imported is the width for good: xdist's workers
# have one, and tests give their own.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
