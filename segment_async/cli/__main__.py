"""`python -m segment_async.cli` is `segment-async`."""

from . import main

main()
