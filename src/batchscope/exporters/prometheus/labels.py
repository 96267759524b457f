"""Labels: those of the whole process beside a metric's own, whatever they are called and contain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from batchscope.catalog import Metric
from batchscope.text import readable

Labels = tuple[tuple[str, str], ...]
"""(name, value) pairs, names distinct."""

RESERVED = frozenset({"le", "quantile"})
"""What the formats themselves put on a histogram's series."""
EXPORTED = "exported_"
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def own_names(metrics: Iterable[Metric]) -> frozenset[str]:
    """Every label name that one of ``metrics`` sets itself."""
    return RESERVED.union(*(metric.labels for metric in metrics))


def common_labels(labels: Mapping[str, str], own: frozenset[str]) -> Labels:
    """The labels of every series. One whose name a metric uses itself becomes ``exported_<name>`` on all series.

    (Prometheus does the same when a target's label meets a scraped one.) Names that the formats do not know,
    which only a foreign document can hold, are left out.
    """
    found: dict[str, str] = {}
    for name, value in labels.items():
        if _NAME.fullmatch(name) and not name.startswith("__"):
            found[_free(name, own, labels)] = value
    return tuple(found.items())


def _free(name: str, own: frozenset[str], labels: Mapping[str, str]) -> str:
    if name not in own:
        return name
    name = EXPORTED + name
    while name in own or name in labels:
        name = EXPORTED + name
    return name


def clean(value: str) -> str:
    """``value`` as every reader takes it: no lone surrogates (no UTF-8), no NUL (Prometheus' lexer ends at it)."""
    return readable(value).replace("\0", "\ufffd")


def escaped(value: str) -> str:
    """``value`` as it stands between the quotes of the text formats."""
    return clean(value).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
