"""The palette as style of the page: custom properties, in the theme that the system prefers or that was chosen."""

from __future__ import annotations

from batchscope.views.palette import GROUNDS, HEAT, LIMITERS, LINES, NEWER, TONES


def stylesheet() -> str:
    """Of the two themes; what is printed is printed on white."""
    light, dark = _properties("light"), _properties("dark")
    return (
        f":root{{color-scheme:light;{_marks()};{light}}}\n"
        f"@media (prefers-color-scheme: dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}\n"
        f"@media print{{:root,:root:not([data-theme=light]),:root[data-theme=dark]{{color-scheme:light;{light}}}}}\n"
    )


def _properties(theme: str) -> str:
    found = GROUNDS[theme]._asdict()
    found |= {name: getattr(tone, theme) for name, tone in TONES.items()}
    found |= {f"series-{place}": color for place, color in enumerate(LINES[theme])}
    found |= {f"heat-{place}": color for place, color in enumerate(HEAT[theme])}
    return ";".join(f"--{name}:{color}" for name, color in found.items())


def _marks() -> str:
    found = [f"--limiter-{name}:{mark.color}" for name, mark in LIMITERS.items()]
    return ";".join([*found, f"--limiter-newer:{NEWER.color}"])
