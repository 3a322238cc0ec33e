"""Which images of a folder are which sequence of which case."""
