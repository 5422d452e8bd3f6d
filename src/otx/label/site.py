"""The page of `otx label` and its answers, served by `local_server` below a secret address."""

from __future__ import annotations

import hmac
import json
import re
import shlex
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
from numpy.typing import NDArray

from otx.active import UNLABELLED
from otx.errors import OtxError
from otx.label.background import Background
from otx.label.decisions import take
from otx.label.groups import HAND, Group, alike_groups, suggested_groups
from otx.label.pictures import Pictures
from otx.label.review import is_open
from otx.local_server import HTML, READ, WRITE, Asked, Refusal, Reply, Route, json_reply

PAGE = Path(__file__).parent / "page.html"
MOST_LISTED = 500
NEXT = 24
# the address is new with each start, so a photo's address never means another photo
KEPT = {"Cache-Control": "private, max-age=3600"}
PICTURE = re.compile(r"/(thumb|photo)/(\d{1,9})", re.ASCII)


class LabelSite:
    """The page, the state of the work, photos, and what a person decides.

    Args:
        token: the first part of every address; who does not know it gets nothing.
        start: the view that the page opens with: "groups", "single" or "review".
    """

    name, images = "page", "'self' data:"
    busy = "too many decisions at once: try again"

    def __init__(self, background: Background, pictures: Pictures, token: str, start: str) -> None:
        self.page = PAGE.read_bytes()
        self.done = threading.Event()
        self._background, self._board, self._pictures = background, background.board, pictures
        self._token, self._start = token, start
        self._reads: dict[str, Callable[[dict[str, str]], Any]] = {
            "/state": lambda _: self.state(),
            "/group": self._group,
            "/next": self._next,
            "/list": self._list,
            "/review": self._review,
        }

    def route(self, path: str) -> Route | None:
        token, _, rest = path[1:].partition("/")
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._token.encode()):
            return None
        path = f"/{rest}"
        if path == "/":
            return Route(READ, lambda _: Reply(HTML, self.page))
        if (read := self._reads.get(path)) is not None:
            return Route(READ, lambda asked: json_reply(read(_arguments(asked.query))))
        if path in ("/decide", "/undo", "/look", "/done"):
            return Route(WRITE, lambda asked: json_reply(self._change(path, asked)))
        found = PICTURE.fullmatch(path)
        if found and int(found[2]) < len(self._board.photos.paths):
            return Route(READ, lambda _: Reply("image/jpeg", self._pictures.get(int(found[2]), found[1]), KEPT))
        return None

    def _change(self, path: str, asked: Asked) -> dict[str, Any]:
        body = asked.body()
        try:
            if path == "/decide":
                take(self._board, json.loads(body))
            elif path == "/undo":
                undone, numbers = self._board.undo()
                return {**self.state(), "undone": undone, "photos": self._photos(numbers[:MOST_LISTED])}
            elif path == "/look":
                self._background.look_again()
            else:
                self.done.set()
        except (ValueError, RecursionError) as error:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        except OtxError as error:
            raise Refusal(HTTPStatus.INSUFFICIENT_STORAGE, f"not saved: {error.what}") from error
        return self.state()

    def state(self) -> dict[str, Any]:
        """What is known of the work by now."""
        board, background = self._board, self._background
        labels = board.labels.copy()  # other threads go on; a class is named before a photo has it
        counts = np.bincount(labels[labels != UNLABELLED], minlength=len(board.classes))
        progress, accuracy = background.progress, background.accuracy
        return {
            "folder": board.photos.root.resolve().name,
            "path": str(board.photos.root.resolve()),
            "quoted": shlex.quote(str(board.photos.root.resolve())),
            "layout": board.photos.layout,
            "start": self._start,
            "count": len(labels),
            "labelled": int((labels != UNLABELLED).sum()),
            "left_out": int(board.left_out.sum()),
            "left": int(self._left().sum()),
            "classes": [
                {"name": name, "count": int(counts[place])} for place, name in enumerate(board.classes[: len(counts)])
            ],
            "source": background.features.source,
            "warning": background.warning,
            "progress": {"what": progress.what, "done": progress.done, "total": progress.total},
            "accuracy": None if accuracy is None else vars(accuracy),
            "fitted": 0 if background.suggestions is None else background.suggestions.num_labels,
            "undo": board.history.last,
            "review": None if background.cards is None else len(self._open_cards()),
            "version": board.version,
        }

    def _left(self) -> NDArray[np.bool_]:
        """Which photos (N,) have no label and are not left out."""
        left: NDArray[np.bool_] = (self._board.labels == UNLABELLED) & ~self._board.left_out
        left[list(self._background.features.bad)] = False
        return left

    def _group(self, given: dict[str, str]) -> dict[str, Any]:
        groups = self._groups()
        waiting = not groups and self._background.clusters is None and not self._background.features.finished
        if waiting:  # the photos as they come, to have something to look at
            groups = [Group(tuple(map(int, np.flatnonzero(self._left())[:HAND])))]
        place = _number(given, "skip")
        chosen = groups[place % len(groups)] if groups else Group(())
        name = self._board.classes[chosen.label] if chosen.label >= 0 else ""
        return {"groups": len(groups), "label": name, "waiting": waiting, "photos": self._photos(chosen.numbers)}

    def _groups(self) -> list[Group]:
        left, background = self._left(), self._background
        groups: list[Group] = []
        if (known := background.suggestions) is not None:
            groups = suggested_groups(known.label, known.confidence, left)
            left[[number for group in groups for number in group.numbers]] = False
        if background.clusters is not None:
            groups += alike_groups(background.clusters, left)
        return groups

    def _next(self, given: dict[str, str]) -> dict[str, Any]:
        """The photos to ask for next; before features are there, the first ones without a label."""
        left, skipped = self._left(), {int(each) for each in given.get("skip", "").split(",") if each.isdecimal()}
        asked = [number for number in self._background.asked if left[number] and number not in skipped]
        if len(asked) < NEXT:
            known = {*asked, *skipped}
            more = (int(number) for number in np.flatnonzero(left)[: MOST_LISTED + len(known)])
            asked += [number for number in more if number not in known]
        return {"photos": self._photos(asked[:NEXT])}

    def _list(self, given: dict[str, str]) -> dict[str, Any]:
        """A window of the photos of a class, of those left, left out, or all."""
        of, board = given.get("of", "all"), self._board
        if of.isdecimal() and int(of) < len(board.classes):
            chosen = board.labels == int(of)
        else:
            chosen = {"left": self._left(), "out": board.left_out}.get(of, np.ones(len(board.labels), bool))
        places, first = np.flatnonzero(chosen), _number(given, "offset")
        count = min(_number(given, "count"), MOST_LISTED)
        window = [int(place) for place in places[first : first + count]]
        return {"total": len(places), "offset": first, "photos": self._photos(window)}

    def _open_cards(self) -> list[Any]:
        return [card for card in self._background.cards or () if is_open(card, self._board)]

    def _review(self, given: dict[str, str]) -> dict[str, Any]:
        cards = self._open_cards()
        if not cards:
            return {"cards": 0, "checked": self._background.cards is not None, "card": None}
        card = cards[_number(given, "skip") % len(cards)]
        plain = {**vars(card), "photos": self._photos(card.numbers)}
        return {"cards": len(cards), "checked": True, "card": plain}

    def _photos(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        known, board = self._background.suggestions, self._board
        found = []
        for number in numbers:
            suggested = -1 if known is None else int(known.label[number])
            row = board.row(number)
            found.append(
                {
                    "id": number,
                    "path": board.photos.paths[number].encode("utf-8", "replace").decode(),
                    "label": row.label,
                    "left_out": row.left_out,
                    "split": row.split,
                    "suggested": board.classes[suggested] if suggested >= 0 else "",
                    "sure": round(float(known.confidence[number]), 3) if known is not None and suggested >= 0 else 0,
                    "bad": self._background.features.bad.get(number, ""),
                }
            )
        return found


def _arguments(query: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(query, max_num_fields=10).items()}


def _number(given: dict[str, str], name: str) -> int:
    text = given.get(name, "0")
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"{name} must be a number")
    return int(text)
