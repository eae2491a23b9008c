"""The metrics of several processes on one page: each series with the number of its process.

Added up they would be wrong. A counter that sums processes falls when one of them is started again, and
a gauge may be a sum, a largest or a last value; Prometheus does what is meant: `sum`, `max`, `rate`.
"""

from collections.abc import Mapping


def merged(pages: Mapping[str, str]) -> str:
    """One page of Prometheus' text format.

    Args:
        pages: what each process answered, by the value of the label `process`.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}
    for process, page in pages.items():
        label, family = f'process="{process}"', ""
        for line in page.splitlines():
            if line.startswith("# "):
                _, word, name, *_ = line.split(" ", 3)
                if word not in {"HELP", "TYPE"}:
                    continue
                family = name
                head, _ = families.setdefault(family, ([], []))
                if not any(known.startswith(f"# {word} ") for known in head):
                    head.append(line)
            elif line:
                families.setdefault(family, ([], []))[1].append(_labelled(line, label))
    lines = [line for head, samples in families.values() for line in (*head, *samples)]
    return "\n".join(lines) + "\n"


def _labelled(sample: str, label: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f"{name}{{{label},{rest}" if not rest.startswith("}") else f"{name}{{{label}{rest}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{label}}} {value}"
