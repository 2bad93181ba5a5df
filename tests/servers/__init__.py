"""Real servers and real processes: what each accepted is received, once each. `python -m tests.servers`."""
