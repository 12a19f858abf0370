"""Try the program some 640 times in ways it should survive, at random, and count what is right.

    python tests/fault_injection/run.py                 # all kinds, under 20 minutes on 2 cores
    python tests/fault_injection/run.py --seed 7        # other moments, other damage
    python tests/fault_injection/run.py --share 0.1   # a tenth of the cases

Kinds are in the modules beside this one, each with a function run_cases(rng, counts) that returns
{kind: (tried, right)}. Exit status 1 where something was not right; what and where is printed.
"""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
COUNTS = {"kill -9": 100, "power cut": 30, "two at once": 40, "two of one name": 20,
          "read in training": 10, "map replaced": 20, "damaged state": 150, "command lines": 150,
          "bad maps": 120}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="share of the cases")
    parser.add_argument("--only", metavar="KIND", help="this kind alone")
    args = parser.parse_args()
    counts = {kind: round(count * args.share) if args.only in (None, kind) else 0
              for kind, count in COUNTS.items()}
    started, results = time.monotonic(), {}
    for name in ("interruptions", "bad_inputs"):
        if importlib.util.find_spec(name):
            module = importlib.import_module(name)
            results |= module.run_cases(np.random.default_rng(args.seed), counts)
    print(f"\nseed {args.seed}, {(time.monotonic() - started) / 60:.1f} minutes")
    for kind, (tried, right) in results.items():
        print(f"{kind:16} tried {tried:4d}   right {right:4d}")
    return 0 if all(tried == right for tried, right in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
