"""What holds for the whole suite: Ctrl-C works in it, also when it was started as a background job; no example of a property is
against the clock."""

from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# A shell starts background jobs with SIGINT ignored, and Python then installs no handler: tests that interrupt themselves or a
# child (which inherits "ignored") would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
