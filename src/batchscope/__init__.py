"""batchscope: scheduler metrics for continuous batching.

Is my batch full, if not why, and are my users served in time? See ``SchedulerMetricsCollector`` and, for an
engine's author, ``RequestTracker``.
"""

TYPE_CHECKING = False  # as type checkers know it; ``typing`` would be the slowest thing here

if TYPE_CHECKING:
    from batchscope.api import *  # noqa: F403  (what that promises)
    from batchscope.api import __all__ as __all__
else:

    def __getattr__(name: str) -> object:
        """Everything public, loaded when the first of it is asked for (0.1 s, numpy).

        So the command ``batchscope`` runs its own first line before anything slow: Ctrl-C is caught from there on.
        """
        if name.startswith("__") and name not in {"__all__", "__version__"}:  # asked of any module, never there
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        api = _loaded()
        globals().update({public: getattr(api, public) for public in api.__all__}, __all__=api.__all__)
        if name not in globals():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *_loaded().__all__})

    def _loaded() -> object:
        import importlib  # noqa: PLC0415

        return importlib.import_module("batchscope.api")
