"""The code of the verbs: one module for each, with a function `run`."""
