"""`python -m segment_async.cli` runs `segment-async`."""

from . import main

main()
