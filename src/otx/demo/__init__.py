"""The demo: a page on this machine that classifies the photos it is given."""
