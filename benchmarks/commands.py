"""Time of `otx --help` and `otx find`, against OTX 2.6.0 and against Python itself.

    python benchmarks/commands.py --peer PEER/bin/python [--runs 5]

PEER is an environment with otx[cuda]==2.6.0 (see README.md here); without --peer only otx and `python -c pass` are
timed. Prints medians over whole processes, run in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

OURS = str(Path(sys.executable).with_name("otx"))
COMMANDS = {"otx --help": ["--help"], "otx find": ["find", "--task", "MULTI_CLASS_CLS"]}


def timed(command: list[str]) -> float:
    # with our PYTHONPATH the peer's command would start our program
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, env=own)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", help="python of the environment with OTX 2.6.0")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(f"{options.runs} runs each, in turns, {os.cpu_count()} cores")
    for name, arguments in COMMANDS.items():
        programs = {"ours": [OURS, *arguments], "python -c pass": [sys.executable, "-c", "pass"]}
        if options.peer:
            programs["OTX 2.6.0"] = [str(Path(options.peer).with_name("otx")), *arguments]
        times: dict[str, list[float]] = {program: [] for program in programs}
        for _ in range(options.runs):
            for program, command in programs.items():
                times[program].append(timed(command))
        median = {program: statistics.median(values) for program, values in times.items()}
        shown = ", ".join(f"{program} {value:.3f} s" for program, value in median.items())
        ratio = f"; {median['OTX 2.6.0'] / median['ours']:.0f} x less than OTX 2.6.0" if options.peer else ""
        extra = median["ours"] - 3 * median["python -c pass"]
        print(f"{name}: {shown}{ratio}; 3 x python -c pass and {extra:+.3f} s")


if __name__ == "__main__":
    main()
