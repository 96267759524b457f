"""The page in a browser: what it remembers, what it is told each second, and its files."""
