"""The wheel's chart library: uPlot, from the npm registry when the package is built; it is in no repository of ours.

``hatchling`` calls it for wheels and for editable installs; ``python hatch_build.py`` does the same in a checkout.
Without npm, or without the registry, the build succeeds all the same and the page says that its line charts are
missing; BATCHSCOPE_REQUIRE_CHARTS=1 makes that an error.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run by hand
    BuildHookInterface = object  # type: ignore[assignment, misc]

PACKAGE = "uplot@1.6.32"
SHA512 = (
    "2883159c6ebccefbb95d751b0b82d010f9e1c0ec41b8bc96d401eda66e882935"
    "c89a46cb824332fa369b8cb8122cc6ac36e186cd09bf7a9ded3a4c93c6989023"
)
ASSETS = Path(__file__).parent / "src" / "batchscope" / "dashboard" / "assets"
FILES = {
    "package/dist/uPlot.iife.min.js": "uplot.js",
    "package/dist/uPlot.min.css": "uplot.css",
    "package/LICENSE": "uplot.LICENSE.txt",
}
SECONDS = 60


class NoChartsError(Exception):
    """Why there is no uPlot."""


class ChartsHook(BuildHookInterface):  # type: ignore[type-arg, misc]
    """Fetches uPlot before a wheel is made."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Put its files among the assets, and those into the wheel though git ignores them."""
        fetch_or_say()
        build_data["artifacts"] += [f"src/batchscope/dashboard/assets/{name}" for name in FILES.values()]


def fetch_or_say() -> bool:
    """Whether the charts are there."""
    if all((ASSETS / name).is_file() for name in FILES.values()):
        return True
    try:
        fetch()
    except NoChartsError as error:
        if os.environ.get("BATCHSCOPE_REQUIRE_CHARTS") == "1":
            raise
        print(f"batchscope: the page will have no line charts: {error}", file=sys.stderr)
        return False
    return True


def fetch() -> None:
    """Take the three files out of the package, if it is the one that we know."""
    npm = shutil.which("npm")
    if npm is None:
        raise NoChartsError("npm is not installed; install it and run 'make assets'")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", folder]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=SECONDS, cwd=folder)
        except (OSError, subprocess.SubprocessError) as error:
            raise NoChartsError(f"npm pack {PACKAGE} failed: {error}; try 'make assets' again") from error
        [packed] = Path(folder).glob("*.tgz")
        found = hashlib.sha512(packed.read_bytes()).hexdigest()
        if found != SHA512:
            raise NoChartsError(f"{PACKAGE} has SHA-512 {found}, expected {SHA512}: it is not what was reviewed")
        with tarfile.open(packed) as archive:
            for member, name in FILES.items():
                file = archive.extractfile(member)
                if file is None:
                    raise NoChartsError(f"{PACKAGE} has no {member}")
                (ASSETS / name).write_bytes(file.read())


if __name__ == "__main__":
    raise SystemExit(0 if fetch_or_say() else 1)
