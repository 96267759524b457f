"""``batchscope top``: what engines do, live in a terminal.

``sources`` say how each one is now, ``polling`` asks them all without waiting for any, ``engine`` remembers what they
said, ``fleet`` ranks them. ``frame`` lays the panels out as lines of styled text, and knows no terminal: so ``--once``
prints the same, and tests read it. ``app`` alone imports textual: keys, the mouse, the screen.
"""
