"""What every command is made of."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from service.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the command line: what it is called, what it takes and what it does."""

    name: str
    help: str
    run: Callable[[Settings, argparse.Namespace], int]
    """Runs it and returns the exit code."""
    add_arguments: Callable[[argparse.ArgumentParser], None]


def number(low: float, high: float, kind: Callable[[str], T]) -> Callable[[str], T]:
    """The type of an argument between two bounds, as `add_argument(type=…)` takes it."""

    def parse(text: str) -> T:
        value = kind(text)
        if not low <= value <= high:  # type: ignore[operator]
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    parse.__name__ = "number"  # argparse names it in its messages
    return parse


def say(text: str) -> None:
    """Print for people, on standard error: standard output holds results alone."""
    print(text, file=sys.stderr, flush=True)
