"""What the benchmarks share: contenders, how they are timed in turn, targets, documents and tables."""
