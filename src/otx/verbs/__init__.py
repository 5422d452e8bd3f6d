"""What each verb does, from top to bottom: one module a verb, each with a function `run`."""
