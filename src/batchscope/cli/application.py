"""The application: which commands there are."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from batchscope.cli.advise import advise_command
from batchscope.cli.capacity import capacity_command
from batchscope.cli.check import check
from batchscope.cli.compare import Sides, compare
from batchscope.cli.demo import demo
from batchscope.cli.explain import explain
from batchscope.cli.fit import fit_command
from batchscope.cli.imports import import_
from batchscope.cli.replay import replay
from batchscope.cli.report import report
from batchscope.cli.runs import runs
from batchscope.cli.score import score
from batchscope.cli.serve import serve
from batchscope.cli.top import top
from batchscope.cli.trace import trace
from batchscope.cli.watch import watch
from batchscope.cli.whatif import whatif
from batchscope.version import __version__

application = typer.Typer(
    help="Scheduler metrics for continuous batching: is the batch full, if not why, are users served in time?",
    epilog="Example: [bold]batchscope demo[/bold]   then   [bold]batchscope replay --help[/bold]",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"batchscope {__version__}")
        raise typer.Exit


@application.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


LIVE, RUNS = "An engine at work", "A run that was recorded, or is to be"
PREDICTION = "What if: a recorded run under other settings"

application.command(
    epilog="Examples: [bold]batchscope demo[/bold]\n\n"
    "[bold]batchscope demo --serve --open[/bold]   (live, in the browser)\n\n"
    "[bold]batchscope demo --kv-cache-blocks 8000[/bold]   (does more memory help?)\n\n"
    "[bold]batchscope demo --json | jq .iteration_stats.limited_by[/bold]",
    rich_help_panel=LIVE,
)(demo)
application.command(
    epilog="Examples: [bold]batchscope serve /run/batchscope[/bold]   (what processes publish there)\n\n"
    "[bold]batchscope serve --replay AzureLLMInferenceTrace_conv.csv --speed 10[/bold]\n\n"
    "[bold]batchscope serve /run/batchscope --host 0.0.0.0 --token-file token.txt[/bold]",
    rich_help_panel=LIVE,
)(serve)
application.command(
    epilog="Examples: [bold]batchscope watch http://127.0.0.1:8000[/bold]\n\n"
    "[bold]batchscope watch http://gpu1:8000 http://gpu2:8000 --interval 10[/bold]\n\n"
    "[bold]batchscope watch http://127.0.0.1:8000 --count 2 --json | jq .fleet.intervals[/bold]",
    rich_help_panel=LIVE,
)(watch)
application.command(
    epilog="Examples: [bold]batchscope check http://127.0.0.1:8000[/bold]\n\n"
    "[bold]batchscope check http://127.0.0.1:8000/prometheus/metrics --json[/bold]   (trtllm-serve)",
    rich_help_panel=LIVE,
)(check)
application.command(
    epilog="Examples: [bold]batchscope top --demo[/bold]\n\n"
    "[bold]batchscope top http://gpu1:9464 http://gpu2:9464[/bold]\n\n"
    "[bold]batchscope top http://127.0.0.1:8000 --check && echo served in time[/bold]",
    rich_help_panel=LIVE,
)(top)

application.command(
    epilog="Examples: [bold]batchscope replay AzureLLMInferenceTrace_conv.csv --slo-ttft 1 --slo-tpot 0.05[/bold]\n\n"
    "[bold]batchscope replay conversation_trace.jsonl.gz --rate-scale 2 --kv-cache-blocks 20000[/bold]\n\n"
    "[bold]batchscope replay runs/20261128T180000Z-1a2b3c4d --rate-scale 1.5[/bold]   (a recorded run)\n\n"
    "[bold]batchscope replay trace.csv --json > snapshot.json[/bold]",
    rich_help_panel=RUNS,
)(replay)
application.command(
    epilog="Examples: [bold]batchscope demo --record runs[/bold]   then   [bold]batchscope runs runs[/bold]\n\n"
    "[bold]batchscope runs runs --json | jq '.runs[] | {name, state, p99: .summary.p99_total_time}'[/bold]",
    rich_help_panel=RUNS,
)(runs)
application.command(
    "import",
    epilog="Examples: [bold]batchscope import result.json --to runs/bench[/bold]   (of vllm bench serve)\n\n"
    "[bold]batchscope import /var/log/dynamo/dynamo-fpm.4192.*.jsonl.gz --to runs/dynamo[/bold]\n\n"
    "[bold]batchscope import requests.jsonl.gz meta.json --to runs/vllm --kv-cache-blocks 30000[/bold]",
    rich_help_panel=RUNS,
)(import_)
application.command(
    epilog="Examples: [bold]batchscope report http://127.0.0.1:9464[/bold]   (of serve(collector), now)\n\n"
    "[bold]batchscope report runs/20261128T180000Z-3f2a --from 600 --to 1200 --html report.html[/bold]\n\n"
    "[bold]batchscope report snapshots.jsonl --at 2026-11-28T18:00[/bold]\n\n"
    "[bold]batchscope replay trace.csv --json | batchscope report - --svg report.svg[/bold]",
    rich_help_panel=RUNS,
)(report)
application.command(
    epilog="Examples: [bold]batchscope explain runs/20261128T180000Z-1a2b3c4d[/bold]   (the slowest 1 % of TTFT)\n\n"
    "[bold]batchscope explain runs --worst gap --share 0.001[/bold]\n\n"
    "[bold]batchscope explain runs --request chatcmpl-17 --json | jq .request.parts[/bold]",
    rich_help_panel=RUNS,
)(explain)
application.command(
    epilog="Examples: [bold]batchscope trace runs --out run.pftrace.gz[/bold]   (open it at https://ui.perfetto.dev)\n\n"
    "[bold]batchscope trace runs --out run.pftrace --from 720 --to 800[/bold]\n\n"
    "[bold]batchscope trace runs --out slow.pftrace --request chatcmpl-17 --request '#2253'[/bold]",
    rich_help_panel=RUNS,
)(trace)
application.command(
    cls=Sides,
    epilog="Examples: [bold]batchscope compare runs/before -- runs/after[/bold]\n\n"
    "[bold]batchscope compare runs/a1 runs/a2 runs/a3 -- runs/b1 runs/b2 runs/b3[/bold]   (repeats decide)\n\n"
    "[bold]batchscope compare main -- branch --fail-if 'p99_ttft > +5%' --fail-if 'goodput < -2%'[/bold]",
    rich_help_panel=RUNS,
)(compare)

application.command(
    "fit",
    epilog="Examples: [bold]batchscope fit runs/20261128T181500Z-1f3a --out model.json[/bold]\n\n"
    "[bold]batchscope fit RUN --until 0.5[/bold]   (the other half is there to check it)",
    rich_help_panel=PREDICTION,
)(fit_command)
application.command(
    epilog="Examples: [bold]batchscope whatif RUN --set max_running_requests=128[/bold]\n\n"
    "[bold]batchscope whatif RUN --model model.json --from 0.5[/bold]   (how well did the fit foretell the rest?)\n\n"
    "[bold]batchscope whatif RUN --rate-scale 1.5 --json | jq .predicted.time_to_first_token[/bold]",
    rich_help_panel=PREDICTION,
)(whatif)
application.command(
    epilog="Examples: [bold]batchscope fit runs/monday --out model.json[/bold]   then   "
    "[bold]batchscope score runs/tuesday model.json[/bold]\n\n"
    "[bold]batchscope score RUN model.json --json | jq .off.time_to_first_token[/bold]",
    rich_help_panel=PREDICTION,
)(score)
application.command(
    "advise",
    epilog="Examples: [bold]batchscope advise RUN --slo-ttft 1 --slo-tpot 0.05[/bold]\n\n"
    "[bold]batchscope advise RUN --model model.json --slo-tpot 0.05 --slo-gap 2 --vary max_running_requests[/bold]\n\n"
    "[bold]batchscope advise RUN --slo-ttft 1 --json | jq .flags[/bold]   (0: change, 1: change nothing, 3: undecided)",
    rich_help_panel=PREDICTION,
)(advise_command)
application.command(
    "capacity",
    epilog="Examples: [bold]batchscope capacity RUN --slo-ttft 2 --slo-tpot 0.1[/bold]\n\n"
    "[bold]batchscope capacity RUN --model model.json --set max_running_requests=128 --svg capacity.svg[/bold]\n\n"
    "[bold]batchscope capacity trace.csv --model model.json --slo-e2e 30 --json | jq .rate[/bold]",
    rich_help_panel=PREDICTION,
)(capacity_command)


def _flowing(text: str) -> str:
    """A docstring's paragraphs as one line each: the terminal breaks them where it is wide."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


for command in application.registered_commands:
    command.help = _flowing(inspect.getdoc(command.callback) or "")
