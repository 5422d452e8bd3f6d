"""What the verbs do: one module a verb, called by the method of `Engine` of the same name."""
