"""Real machines: the inventory that names them, their certificates, their clocks, and the check before a run."""
