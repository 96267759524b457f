"""Put measured results into docs/performance.md: nothing there is typed by hand.

    python benchmarks/report.py DIR [--docs FILE]

DIR is what `benchmarks/run.py --json DIR` wrote. Text between `<!-- begin: NAME -->` and `<!-- end: NAME -->` is
replaced; NAME is machine, targets, recording, memory, replay, simulation, accuracy or ledger. Quick runs are refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.document import Document, Machine, read
from harness.tables import figures_of, markdown, targets_of
from run import BENCHMARKS

DOCS = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


def sections(documents: dict[str, Document]) -> dict[str, str]:
    """Marker -> text."""
    targets = [target for document in documents.values() for target in document.targets]
    machine = documents["recording"].machine
    met = sum(target.met is True for target in targets)
    count = f"{met} of {len(targets)} targets are met."
    return {
        "machine": describe(machine),
        "targets": f"{count}\n\n{markdown(targets_of(targets))}",
        **{name: figures(document, machine) for name, document in documents.items()},
    }


def describe(machine: Machine) -> str:
    memory = f", {machine.memory_bytes / 2**30:.0f} GiB" if machine.memory_bytes else ""
    packages = ", ".join(f"{name} {version or 'absent'}" for name, version in machine.packages.items())
    lines = [
        f"* Machine: {machine.cpu}, {machine.cores} cores{memory}; {machine.system}.",
        f"* {machine.python}, numpy {machine.numpy}, batchscope {machine.batchscope}; {packages}.",
        f"* Measured on {machine.date[:16].replace('T', ' ')} UTC.",
    ]
    if machine.load_average is not None:
        lines.append(f"* Load average of the minute before the run: {machine.load_average:.1f}.")
    return "\n".join(lines)


def figures(document: Document, machine: Machine) -> str:
    """Figures and notes; where it was measured, if not where the recording was."""
    lines = [markdown(figures_of(document))]
    if document.machine.cpu != machine.cpu or document.machine.python != machine.python:
        lines.append(describe(document.machine))
    lines += [f"* {note}" for note in document.notes if note]
    shown = ", ".join(fact(*item) for item in document.settings.items() if not item[0].startswith("values in "))
    lines.append(f"({shown}; {document.seconds:.0f} s.)")
    return "\n\n".join(lines)


def fact(name: str, value: float | str) -> str:
    """A setting in words."""
    return f"{name.replace('_', ' ')} {value if isinstance(value, str) else f'{value:,.10g}'}"


def filled(text: str, parts: dict[str, str]) -> str:
    """``text`` with every part between its markers; each marker must be there once."""
    for name, part in parts.items():
        begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise SystemExit(f"error: not one pair of markers for {name!r}; add {begin.strip()} and {end}")
        text = f"{text.partition(begin)[0]}{begin}{part}\n{end}{text.partition(end)[2]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--docs", type=Path, default=DOCS, metavar="FILE", help="default: docs/performance.md")
    chosen = parser.parse_args()
    documents = {name: read(chosen.folder / f"{name}.json") for name in BENCHMARKS}
    quick = [name for name, document in documents.items() if document.quick]
    if quick:
        raise SystemExit(f"error: {', '.join(quick)}: a quick run is a look, not a result; measure without --quick")
    text = chosen.docs.read_text(encoding="utf-8")
    chosen.docs.write_text(filled(text, sections(documents)), encoding="utf-8")
    print(f"{chosen.docs}: {', '.join(BENCHMARKS)}")


if __name__ == "__main__":
    main()
