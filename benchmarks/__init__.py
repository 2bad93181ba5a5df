"""The benchmarks: what this client costs beside its peers, measured in one run on one machine.

`python -m benchmarks` measures, `python -m benchmarks --publish` makes the README's block, docs/performance.md and the pictures of the last figures,
`python -m benchmarks.guard` counts what one call and one batch execute. Nothing here is imported by the package.
"""
