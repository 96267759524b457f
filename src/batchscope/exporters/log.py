"""LogExporter: the key figures as structured log records, to any logger."""

from __future__ import annotations

import logging

from batchscope.background import Closing, Periodic
from batchscope.errors import ConfigurationError
from batchscope.statistics.cumulative import StateSource
from batchscope.statistics.key_figures import log_key_figures


class LogExporter(Closing):
    """Logs the key figures of ``source`` every ``interval`` seconds, and at ``close()``, from a thread of its own.

    A record's message is ``batchscope`` and the figures as JSON; formatters for structured logs find the same
    figures as the record's attribute ``batchscope``, a dict of JSON values with None for what is not known. A
    logger for which ``level`` is off costs nothing. A handler that raises is counted in ``failures``. It ends with
    its source. In a forked child it is off.
    """

    def __init__(
        self,
        source: StateSource,
        logger: logging.Logger | None = None,
        *,
        level: int = logging.INFO,
        interval: float = 30.0,
    ) -> None:
        if not isinstance(level, int) or isinstance(level, bool):
            raise ConfigurationError("level", level, "a level's number, such as logging.INFO")
        if logger is not None and not hasattr(logger, "isEnabledFor"):
            raise ConfigurationError("logger", logger, "a logging.Logger, or None for the one named batchscope")
        self._source = source
        self._logger = logger or logging.getLogger("batchscope")
        self._level = level
        self._periodic = Periodic(self.write, interval, "batchscope-log-exporter").start()

    @property
    def failures(self) -> int:
        """Records that the logger's handlers did not take."""
        return self._periodic.failures

    def write(self) -> None:
        """Log the figures now."""
        if self._source.closed:
            self._periodic.stop()
        log_key_figures(self._source, self._logger, self._level)

    def close(self, timeout: float = 5.0) -> bool:
        """Log a last time and end; says whether the thread ended within ``timeout`` seconds."""
        return self._periodic.close(timeout)
