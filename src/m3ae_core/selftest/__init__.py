"""The self-test: whether an installation, its machine and a folder can be relied on."""
