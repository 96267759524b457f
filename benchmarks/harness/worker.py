"""The child process of ``runner.Child``: a question a line on stdin, nanoseconds a call on stdout."""

from __future__ import annotations

import json
import sys

from harness.competitors import MULTIPROCESS
from harness.runner import Local


def main() -> None:
    contenders = {contender.key: contender for contender in MULTIPROCESS}
    runners: dict[str, Local] = {}
    for line in sys.stdin:
        action, key, calls = json.loads(line)
        runner = runners.setdefault(key, Local(contenders[key].make()))
        print(getattr(runner, action)(calls), flush=True)


if __name__ == "__main__":
    main()
