"""The benchmarks: what this client costs beside its peers, measured in one run on one machine.

`python -m benchmarks` measures, `python -m benchmarks --markdown` writes the README's block from the last figures,
`python -m benchmarks.guard` counts what one call and one batch execute. Nothing here is imported by the package.
"""
