"""From figures to text: percentiles and medians, tables, targets, the published pages and the plots.

Everything here but `publish` and `plots` is pure, and nothing here measures.
"""
