"""What holds for the whole suite: Ctrl-C works in it, also when it was started as a background job."""

from __future__ import annotations

import signal

# A shell starts background jobs with SIGINT ignored, and Python then installs no handler: tests that interrupt themselves or a
# child (which inherits "ignored") would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
