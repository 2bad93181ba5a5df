"""`python -m tests.servers [--count 10000] [NAME ...]`: a line for each setup whose name has one of these words in it.

The exit status is 1 if one of them lost a message or sent it twice.
"""

import argparse
import sys

from .run import run
from .setups import SETUPS

ROW = "{:<64} {:>9} {:>9} {:>6} {:>6}  {}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="messages that each tracks")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    chosen = [each for each in SETUPS if not arguments.names or any(map(each.name.count, arguments.names))]
    print(ROW.format("what", "accepted", "received", "twice", "lost", ""), flush=True)
    good = 0
    for setup in chosen:
        try:
            result = run(setup, arguments.count)
        except (AssertionError, TimeoutError, ExceptionGroup) as error:
            print(ROW.format(setup.name, "", "", "", "", f"{type(error).__name__}: {error}"[:300]), flush=True)
            continue
        good += result.is_good
        print(
            ROW.format(setup.name, result.accepted, result.received, result.twice, result.lost, result.trouble),
            flush=True,
        )
    print(f"{good} of {len(chosen)} lost nothing and sent nothing twice")
    return good != len(chosen)


if __name__ == "__main__":
    sys.exit(main())
