"""Benchmarks: what this client costs beside other SDKs, measured in one run on one machine.

    python -m benchmarks              measures everything; `--publish` writes the tables and plots of the documents
    python -m benchmarks.guard        counts what one call and one batch execute, and compares with guard.json
    python -m benchmarks.compare DIR  compares this checkout with another one
    python -m benchmarks.anatomy      times the parts of a call, of a request, and of a message on disk
    python -m benchmarks.backlog      leaves a million messages on disk and drains them

`server/` is the other end of the connection, `adapters/` has one module for each SDK, `probes/` one for each
measurement, `report/` turns figures into text. The package imports nothing from here.
"""
