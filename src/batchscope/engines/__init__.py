"""Engines nobody here wrote: how batchscope measures each of them; one file an engine."""
