"""How fast the hot path is, beside a floor measured in the same run: `make bench`."""
