"""The demo's page and its answers, served by `local_server`."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from otx.demo.answer import Answerer, Example
from otx.local_server import HTML, MAX_BYTES, READ, UPLOADS, WRITE, Asked, PageServer, Reply, Route, json_reply

PAGE = Path(__file__).parent / "page.html"
NO_MAPS = "maps=false"


class DemoSite:
    """The page, what it says about the model, and the answers for photos and examples.

    Args:
        about: what the page says about the model.
    """

    name, images = "demo", "data:"
    busy = f"{UPLOADS} photos are being looked at already: try again"

    def __init__(self, answerer: Answerer, examples: Sequence[Example], about: dict[str, str]) -> None:
        self.page = PAGE.read_bytes()
        self._answerer, self._examples = answerer, examples
        self._model = {
            **about,
            "classes": list(answerer.card.classes),
            "max_bytes": MAX_BYTES,
            "examples": [
                {"label": each.label, "thumbnail": each.thumbnail, "mistaken_for": each.mistaken_for}
                for each in examples
            ],
        }

    def route(self, path: str) -> Route | None:
        if path == "/":
            return Route(READ, lambda _: Reply(HTML, self.page))
        if path == "/model":
            return Route(READ, lambda _: json_reply(self._model))
        if path == "/classify":
            return Route(WRITE, lambda asked: self._classify(asked, asked.body))
        found = re.fullmatch(r"/examples/(\d{1,4})", path, re.ASCII)
        if found and int(found[1]) < len(self._examples):
            return Route(WRITE, lambda asked: self._classify(asked, lambda: self._examples[int(found[1])].path))
        return None

    def _classify(self, asked: Asked, photo: Callable[[], bytes | Path]) -> Reply:
        return json_reply(self._answerer.answer(photo(), maps=asked.query != NO_MAPS).to_dict())


class Demo(PageServer):
    """A demo that runs until `close`, or to the end of the `with` block it is used in.

    Args:
        about: what the page says about the model.
        taken: the socket to listen on, from `take_port`; closed with the demo.
    """

    def __init__(
        self, answerer: Answerer, examples: Sequence[Example], about: dict[str, str], taken: socket.socket
    ) -> None:
        super().__init__(DemoSite(answerer, examples, about), taken)

    def __enter__(self) -> Demo:
        return self
