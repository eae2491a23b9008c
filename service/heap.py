"""The garbage collector of a long-running process."""

import gc
from typing import Final

YOUNG_OBJECTS: Final = 10_000
"""Objects made since the last collection that start the next. Python's 700 are made by fewer than
a hundred jobs, most of which are still running then: each collection would walk them for nothing."""


def tune_garbage_collection() -> None:
    """Keep the collector from scanning the objects of the imports, and from running too often.

    The imports create some hundred thousand objects that never become garbage, and each full collection
    would scan them all. Call it once everything is loaded and started.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
