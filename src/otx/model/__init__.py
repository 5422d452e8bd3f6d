"""The model file: what it says about itself, its weights, its checksum."""
