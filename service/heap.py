"""The garbage collector of a long-running process."""

import gc


def freeze_startup_objects() -> None:
    """Keep the collector from walking what the imports made, for the life of the process.

    That is some hundred thousand objects, none of which will ever be garbage, and each full
    collection would walk them all. To be called once everything is loaded and started.
    """
    gc.collect()
    gc.freeze()
