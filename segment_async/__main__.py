"""`python -m segment_async` runs the command `segment-async`."""

from .cli import main

main()
