"""A page on very many photos: python benchmarks/label_scale.py PHOTOS --weights WEIGHTS [--network mobilenetv2_100]

    [--count 50000] [--size 224] [--kill_at 0.5] [--minutes 30]

Starts `otx label` on COUNT photos, made of those in PHOTOS (with a few more bytes in each file, so that all have other
content), in a process of its own, and uses the page while features are computed behind it: a thumbnail and a list every
half second, a decision on 24 photos every two. At the share KILL_AT of the features the process is killed and started
again. Prints the seconds from the command to the first photos, the time of answers (median, 95 % within, longest),
features a second, how long those known are read back, the decisions that were lost, and the most memory it held.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from otx.data.journal import JOURNAL, read_journal

SUFFIXES = (".jpg", ".jpeg", ".png")


def pile_of(photos: Path, folder: Path, count: int) -> None:
    """So many photos of different content in one folder."""
    sources = sorted(path for path in photos.rglob("*") if path.suffix.lower() in SUFFIXES)[:count]
    for number, path in zip(range(count), itertools.cycle(sources), strict=False):
        # decoders stop at the end of the image: what follows only makes the content another
        (folder / f"IMG_{number:06}{path.suffix}").write_bytes(path.read_bytes() + f"{number}".encode())


class Page:
    """`otx label` in a process of its own."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.began = time.monotonic()
        command = [sys.executable, "-m", "otx", "label", str(folder), "--open", "false",
                   "--model.name", f"timm/{options.network}", "--model.weights", str(options.weights),
                   "--data.input_size", str(options.size)]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        address = next(found for line in self.process.stdout if (found := re.search(r"http://(\S+?)/(\S+)/", line)))
        self.host, self.token = address[1], address[2]
        self.spent: dict[str, list[float]] = defaultdict(list)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        started = time.monotonic()
        with closing(http.client.HTTPConnection(self.host, timeout=120)) as connection:
            connection.request(method, f"/{self.token}{path}", None if body is None else json.dumps(body))
            answer = connection.getresponse()
            data = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {data[:200]!r}")
        self.spent[re.sub(r"[\d?].*", "", path)].append(time.monotonic() - started)
        return json.loads(data) if answer.getheader("Content-Type", "").startswith("application/json") else data

    def most_memory(self) -> float:
        """The most gigabytes that the process held so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1e6


def use(page: Page, count: int, until: float, end: float, rng: random.Random) -> set[int]:
    """Use the page until so many features are there; returns the photos that got a label."""
    decided: set[int] = set()
    state = page.ask("GET", "/state")
    for turn in itertools.count():
        if (state["progress"]["done"] >= until and state["progress"]["what"] == "looking at photos") or (
            state["progress"]["what"] not in ("loading the network", "looking at photos", "starting")
        ):
            break
        if time.monotonic() > end:
            break
        page.ask("GET", f"/thumb/{rng.randrange(count)}")
        page.ask("GET", f"/list?of=all&offset={rng.randrange(count)}&count=60")
        if turn % 4 == 0:
            ids = rng.sample(range(count), 24)
            page.ask("POST", "/decide", {"action": "label", "ids": ids, "label": f"class {turn % 5}"})
            decided |= set(ids)
        time.sleep(0.5)
        state = page.ask("GET", "/state")
    return decided


def tell(page: Page) -> None:
    for what, seconds in sorted(page.spent.items()):
        values = 1000 * np.asarray(seconds)
        print(f"  {what:<8} {np.median(values):5.0f} ms, 95 % within {np.percentile(values, 95):5.0f} ms, "
              f"longest {values.max():5.0f} ms, {len(values)} times")  # fmt: skip
    print(f"  the most memory {page.most_memory():.2f} GB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--network", default="mobilenetv2_100")
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--kill_at", type=float, default=0.5)
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    rng, end = random.Random(0), time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pile_of(options.photos, folder, options.count)
        page = Page(folder, options)
        page.ask("GET", "/group")
        page.ask("GET", "/thumb/0")
        print(f"the first photos {time.monotonic() - page.began:.1f} s after the command", flush=True)
        decided = use(page, options.count, options.kill_at * options.count, end, rng)
        done, seconds = page.ask("GET", "/state")["progress"]["done"], time.monotonic() - page.began
        print(f"{done} of {options.count} features after {seconds:.0f} s: {done / seconds:.0f} a second")
        tell(page)
        page.process.send_signal(signal.SIGKILL)
        page.process.wait()
        lost = decided - {int(re.findall(r"\d{6}", path)[0]) for path in read_journal(folder / JOURNAL)}
        again = Page(folder, options)
        again.ask("GET", "/group")
        print(f"killed and started again: {len(lost)} of {len(decided)} labels lost, the first photos after "
              f"{time.monotonic() - again.began:.1f} s", flush=True)  # fmt: skip
        use(again, options.count, done, end, rng)
        print(f"the {done} features are read back {time.monotonic() - again.began:.0f} s after the command", flush=True)
        began = time.monotonic()
        use(again, options.count, options.count, end, rng)
        left = again.ask("GET", "/state")["progress"]
        print(f"then {time.monotonic() - began:.0f} s until {left['what'] or 'all was done'} {left['done'] or ''}")
        tell(again)
        again.process.kill()
        again.process.wait()


if __name__ == "__main__":
    main()
