"""The colours of the page as style: those of marks from the palette of all views, grounds and text in two themes."""

from __future__ import annotations

from batchscope.views.palette import LIMITERS, NEWER

THEMES = {
    "light": {
        "ground": "#f6f7f9", "panel": "#ffffff", "text": "#15181d", "quiet": "#565d6b", "line": "#d9dde4",
        "grid": "#eceff3", "accent": "#1a56c4", "good": "#0a6b3d", "warning": "#8a5200", "bad": "#b3161b",
        "good-ground": "#e5f4ec", "warning-ground": "#fdf0db", "bad-ground": "#fbe7e7", "accent-ground": "#e7eefb",
    },
    "dark": {
        "ground": "#0f1216", "panel": "#171b21", "text": "#e8ebf0", "quiet": "#9aa3b2", "line": "#2b323c",
        "grid": "#222831", "accent": "#7fb0ff", "good": "#5fd397", "warning": "#f0b45c", "bad": "#ff8a85",
        "good-ground": "#12281d", "warning-ground": "#2e2412", "bad-ground": "#331a1b", "accent-ground": "#18263d",
    },
}  # fmt: skip
"""Texts (``text``, ``quiet``, ``accent``, ``good``, ``warning``, ``bad``) are 4.5:1 at least on every ground."""
SERIES = {
    "light": ("#1a56c4", "#b4530a", "#7a3fb0", "#0b7a75"),
    "dark": ("#7fb0ff", "#f2a35e", "#c99bf0", "#58c9c2"),
}
"""Lines of a chart, 3:1 at least on a panel; each also has its own dashes."""
HEAT = {
    "light": ("#e6eefb", "#b9d0f5", "#83a9ea", "#4c7fd6", "#2358b0", "#0e336f"),
    "dark": ("#182742", "#1f3d70", "#2a5aa6", "#4a83d6", "#86b2f2", "#d3e5ff"),
}
"""One hue, from few to many: lighter to darker on white, darker to lighter on black."""


def stylesheet() -> str:
    """Custom properties: the theme that the system prefers, or the one that was chosen."""
    light, dark = _properties("light"), _properties("dark")
    return (
        f":root{{color-scheme:light;{_marks()}{light}}}\n"
        f"@media (prefers-color-scheme: dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}\n"
        f"@media print{{:root,:root:not([data-theme=light]),:root[data-theme=dark]{{color-scheme:light;{light}}}}}\n"
    )


def _properties(theme: str) -> str:
    found = [f"--{name}:{color}" for name, color in THEMES[theme].items()]
    found += [f"--series-{place}:{color}" for place, color in enumerate(SERIES[theme])]
    found += [f"--heat-{place}:{color}" for place, color in enumerate(HEAT[theme])]
    return ";".join(found)


def _marks() -> str:
    found = [f"--limiter-{name}:{mark.color};--letter-{name}:'{mark.letter}'" for name, mark in LIMITERS.items()]
    return ";".join([*found, f"--limiter-newer:{NEWER.color}"]) + ";"
