"""Time series that drive links and hosts: readers of published formats, a generator, and small made-up files."""
