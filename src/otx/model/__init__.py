"""The model file: its card, its weights, its checksum."""
