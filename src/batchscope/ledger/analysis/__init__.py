"""Figures of recorded runs, of any size: each one an Ibis expression, for DuckDB on one machine or for Spark."""
