"""The installed wheel, in an empty environment: python tests/cli/smoke.py PATH/TO/batchscope."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = Path(sys.argv[1]).absolute()
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
# What the page is made of: all that the checkout has, the library of its line charts, too, if the build could fetch it.
PAGE = Path(__file__).parents[2] / "src" / "batchscope" / "dashboard" / "assets"
ASSETS = """
from importlib.resources import files
print(*sorted(asset.name for asset in (files("batchscope.dashboard") / "assets").iterdir()))
"""
OTHERS = """
import sys
import msgspec, numpy
before = {name.partition(".")[0] for name in sys.modules}
from batchscope import *
after = {name.partition(".")[0] for name in sys.modules}
print(*sorted(after - before - sys.stdlib_module_names - {"batchscope"}))
"""


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    assert output(COMMAND, "--version").startswith("batchscope ")
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.csv")
        trace.write_text(TRACE)
        snapshot = Path(folder, "snapshot.json")
        snapshot.write_text(output(COMMAND, "replay", str(trace), "--json"))
        document = json.loads(snapshot.read_text())
        assert "2 completed" in output(COMMAND, "report", str(snapshot))
    assert document["request_stats"]["completed_requests"] == 2, document["request_stats"]
    assert document["totals"]["generation_tokens"] == 44 + 109, document["totals"]
    missing = {asset.name for asset in PAGE.iterdir()} - set(output(sys.executable, "-c", ASSETS).split())
    assert not missing, f"the wheel lacks of the page: {missing}"
    others = set(output(sys.executable, "-c", OTHERS).split())
    assert not others, f"import batchscope loads more than numpy and msgspec: {others}"
    print("the wheel works: version, replay, report, page, imports")


if __name__ == "__main__":
    main()
