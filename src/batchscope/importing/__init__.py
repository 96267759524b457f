"""Runs that others recorded, made into runs of ours: recognised by content, what is missing in them named."""

from batchscope.importing.imported import Given, Imported, import_run

__all__ = ["Given", "Imported", "import_run"]
