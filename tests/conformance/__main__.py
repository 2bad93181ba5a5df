"""Run the cases against one client or all: `python -m tests.conformance [--table] [--rows] [--client NAME] [CASE ...]`.

With `--table` the documentation's table is printed: how many cases of each group every client keeps to; with `--rows` one
line a promise and what was found against it; with neither every finding. The exit status is 1 when our own client
differs in anything.
"""

import argparse
import asyncio
import logging
import sys
from datetime import UTC, datetime

from .case import Case
from .cases import CASES, GROUPS
from .clients import CLIENTS
from .runner import run_cases

Findings = dict[Case, list[str]]

# Children start on the same two cores that the cases are timed on.
AT_ONCE = {"segment-async": 24}
CHILDREN_AT_ONCE = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print Markdown, one line a group of cases")
    parser.add_argument("--rows", action="store_true", help="print Markdown, one line a promise")
    parser.add_argument("--client", action="append", choices=CLIENTS, help="only this one; may be repeated")
    parser.add_argument("cases", nargs="*", help="only cases whose row or name contains this")
    arguments = parser.parse_args()
    # Our own client runs in this process, and has much to say about faults.
    logging.disable()
    chosen = [
        case for case in CASES if not arguments.cases or any(map(f"{case.row}: {case.name}".count, arguments.cases))
    ]
    found = {name: _run(name, chosen) for name in arguments.client or CLIENTS}
    for is_wanted, show in ((arguments.table, _table), (arguments.rows, _rows)):
        if is_wanted:
            print(show(found), end="\n\n")
    if not arguments.table and not arguments.rows:
        print(_listing(found))
    return 1 if any(found.get("segment-async", {}).values()) else 0


def _run(name: str, cases: list[Case]) -> Findings:
    adapter = CLIENTS[name].set_up()
    return asyncio.run(run_cases(cases, adapter, at_once=AT_ONCE.get(name, CHILDREN_AT_ONCE)))


def _listing(found: dict[str, Findings]) -> str:
    lines = [
        f"{name}: {case.row}: {case.name}: {'; '.join(of_case)}"
        for name, findings in found.items()
        for case, of_case in findings.items()
        if of_case
    ]
    counts = (f"{name}: {sum(not of_case for of_case in f.values())} of {len(f)} cases" for name, f in found.items())
    return "\n".join([*lines, *counts])


def _table(found: dict[str, Findings]) -> str:
    """Cases kept to, of all, by group and client."""
    lines = [[f"cases, {datetime.now(UTC):%Y-%m-%d}", *(CLIENTS[name].heading for name in found)]]
    for group, cases in {**GROUPS, "**all**": CASES}.items():
        shares = [_share(cases, findings) for findings in found.values()]
        lines += [[group, *shares]] if any(shares) else []
    return _markdown(lines)


def _share(cases: list[Case], findings: Findings) -> str:
    ran = [findings[case] for case in cases if case in findings]
    return f"{sum(not of_case for of_case in ran)} of {len(ran)}" if ran else ""


def _rows(found: dict[str, Findings]) -> str:
    rows = list(dict.fromkeys(case.row for findings in found.values() for case in findings))
    lines = [["", *(CLIENTS[name].heading for name in found)]]
    lines += [[row, *(_cell(row, findings) for findings in found.values())] for row in rows]
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    headings, *rows = lines
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [headings, ["---"] * len(headings), *rows])


def _cell(row: str, findings: Findings) -> str:
    of_row = [of_case for case, of_case in findings.items() if case.row == row]
    failed = [of_case for of_case in of_row if of_case]
    if not failed:
        return "✓"
    share = f" ({len(failed)} of {len(of_row)} cases)" if len(of_row) > 1 else ""
    return f"✗ {failed[0][0]}{share}"


if __name__ == "__main__":
    sys.exit(main())
