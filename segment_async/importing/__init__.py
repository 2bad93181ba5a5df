"""History from files into Segment: checked, paced, resumable. The library half of `segment-async import`.

    mapping = load_mapping("orders.toml")
    options = ImportOptions(sources=["orders.csv"], write_key=key, mapping=mapping, destinations="none")
    report = await run_import(options, on_progress=print)

It sends with an ordinary `Client`. Every record ends as delivered, rejected, failed, skipped or a duplicate; the counts
agree, and what did not arrive is in the rejects file with its reason.
"""

from ._dry_run import DryRun, dry_run
from ._initial import initial_mapping
from ._mapping import Mapping
from ._mapping_file import load_mapping, parse_mapping
from ._options import ImportOptions
from ._ready_made import load_transform
from ._report import Counts, ImportReport, ImportUsageError, Progress
from ._run import Importer, run_import

__all__ = [
    "Counts",
    "DryRun",
    "ImportOptions",
    "ImportReport",
    "ImportUsageError",
    "Importer",
    "Mapping",
    "Progress",
    "dry_run",
    "initial_mapping",
    "load_mapping",
    "load_transform",
    "parse_mapping",
    "run_import",
]

# A traceback names an error as it is imported.
ImportUsageError.__module__ = __name__
