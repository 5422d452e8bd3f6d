"""Open a page of otx in the browser."""

from __future__ import annotations

import os


def open_in_browser(url: str) -> None:
    """Open a page, but only on a desktop: elsewhere a text browser would take over the terminal."""
    import webbrowser

    if any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        webbrowser.open(url)
