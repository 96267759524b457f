"""SGLang: what its hooks hand out becomes records."""
