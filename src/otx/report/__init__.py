"""The page about a run: `report.html`."""
