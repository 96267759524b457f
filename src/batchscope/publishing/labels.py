"""Labels that are told instead of found."""

from __future__ import annotations

import re
from collections.abc import Mapping

from batchscope.errors import ConfigurationError

_NAME = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")


def checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """A copy of ``labels``; ConfigurationError unless they are names Prometheus takes and texts."""
    if not isinstance(labels, Mapping):
        raise ConfigurationError("labels", labels, 'a mapping such as {"model_name": "m"}, or None')
    for name, value in labels.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError("labels", name, "label names of letters, digits and _, not starting with __")
        if not isinstance(value, str):
            raise ConfigurationError(f"labels[{name!r}]", value, "a text")
    return dict(labels)
