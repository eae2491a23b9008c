"""`worker --processes N`: several worker processes under one that keeps them running."""
