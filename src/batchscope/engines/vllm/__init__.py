"""vLLM: what its hooks hand out becomes records."""
