"""Engines measured from outside, by the ``/metrics`` page that they already serve.

``watcher`` scrapes several at once, each page read under hard limits (``fetch``, ``exposition``) and turned, by the
table in ``names``, into canonical numbers (``reading``). What happened is the difference between two scrapes
(``difference``); percentiles of bucketed histograms are intervals (``buckets``). ``documents`` has the result.
"""
