"""Open a page of otx in the browser."""

from __future__ import annotations

import os
import sys


def open_in_browser(url: str) -> None:
    """Open a page, but only on a desktop: elsewhere a text browser would take over the terminal."""
    import webbrowser

    # macOS and Windows have a desktop without these variables
    if sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        webbrowser.open(url)
