"""`python -m benchmarks`: measures everything, in rounds that go through all contestants, and reports.

A complete run writes `results.json`. A partial or quick run only prints its figures, unless `--json` names a file.
`--publish` makes the README's block, `docs/performance.md` and the plots from the last complete run; the page has a
table of other runs as well, if `benchmarks/results-*.json` exist.
"""

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import environments
from benchmarks.bench import Bench, ProbeFailed, cores, machine, pin
from benchmarks.contestants import BY_NAME, NOT_MEASURED
from benchmarks.parts import PARTS, QUICK, QUICK_FIELD, Case
from benchmarks.report import publish, ratios, tables
from benchmarks.report.figures import median_of_rounds
from benchmarks.server.sink import Sink, capacities, compiled

RESULTS = Path(__file__).parent / "results.json"
ATTEMPTS, DISTURBED = 2, 0.1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure segment_async beside its peers.")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="measure only this part; may be repeated")
    parser.add_argument("--quick", action="store_true", help="one round of calls and delivery against the official SDK")
    parser.add_argument("--rounds", type=int, default=None, help="number of rounds to take medians over (default 3)")
    parser.add_argument("--peers", nargs="+", choices=list(BY_NAME), help="measure only these contestants")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio", help="whose event loop")
    parser.add_argument("--json", type=Path, default=None, help="where to write the results")
    parser.add_argument(
        "--publish", action="store_true", help="write the README's block, docs/performance.md and the plots"
    )
    return parser.parse_args()


def main() -> int:
    options = arguments()
    source = options.json or RESULTS
    if options.publish:
        publish.write(json.loads(source.read_text()), publish.other_runs())
        return environments.draw(source)
    writes_results = options.json or not (options.only or options.quick or options.peers)
    results: dict[str, Any] = {}
    # After each round, so that an interrupted run keeps the rounds it finished.
    for results in measured(options):
        if writes_results:
            source.write_text(json.dumps(results, indent=1) + "\n")
    print(tables.terminal(results, ratios.markdown(results)))
    return 0


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The results so far, after each round."""
    cases, missing = runnable(planned(options))
    rounds = options.rounds or (1 if options.quick else 3)
    with Sink(compiled(environments.FOLDER)) as sink:
        pin(sink.process_id, cores().other)
        results = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "machine": machine(),
            "loop": options.loop,
            "sink": {"kind": sink.kind, "messages_per_second": capacities(sink)},
            "versions": {name: environments.versions(name) for name in {case.contestant.environment for case in cases}},
            "missing": NOT_MEASURED | missing,
        }
        figures: dict[Case, list[dict[str, Any]]] = defaultdict(list)
        for number in range(1, rounds + 1):
            log(f"round {number} of {rounds}")
            run_round(Bench(sink, cores(), options.loop), cases, random.Random(number), figures)
            entries = [entry(case, figures[case]) for case in cases if figures[case]]
            yield results | {"rounds": number, "figures": entries}


def planned(options: argparse.Namespace) -> list[Case]:
    field = set(options.peers or (QUICK_FIELD if options.quick else BY_NAME))
    names = options.only or (list(QUICK) if options.quick else list(PARTS))
    cases = [case for name in names for case in PARTS[name].cases(name, field)]
    return [case for case in cases if not options.quick or case.variant in QUICK.get(case.part, (case.variant,))]


def runnable(cases: list[Case]) -> tuple[list[Case], dict[str, str]]:
    """The cases whose environments could be created, and for the others, why not."""
    problems = {}
    for name in dict.fromkeys(case.contestant.environment for case in cases):
        log(f"environment {name}")
        if problem := environments.prepare(name):
            problems[name] = problem
    return [case for case in cases if case.contestant.environment not in problems], problems


def run_round(bench: Bench, cases: list[Case], rng: random.Random, figures: dict[Case, list[dict[str, Any]]]) -> None:
    """Every case once, in a different order each round, so that none always follows the same other."""
    for done, case in enumerate(rng.sample(cases, len(cases)), start=1):
        log(f"[{done:3}/{len(cases)}] {case.part} {case.variant}, {case.contestant.label}")
        try:
            figures[case].append(least_disturbed(bench, case))
        except ProbeFailed as failed:
            log(f"      failed: {failed}")


def least_disturbed(bench: Bench, case: Case) -> dict[str, Any]:
    """Measure again if other processes took more than a tenth of the core, and keep the least disturbed figures."""
    attempts: list[dict[str, Any]] = []
    for _ in range(ATTEMPTS):
        attempts.append(PARTS[case.part].measure(bench, case))
        if attempts[-1].get("disturbed", 0) <= DISTURBED:
            break
        log(f"      disturbed: other processes took {attempts[-1]['disturbed']:.0%} of the core")
        time.sleep(1)
    return min(attempts, key=lambda figures: figures.get("disturbed", 0))


def entry(case: Case, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "part": case.part,
        "variant": case.variant,
        "contestant": case.contestant.name,
        "label": case.contestant.label,
        "median": median_of_rounds(rounds),
        "rounds": rounds,
    }


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
