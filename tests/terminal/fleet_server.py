"""Many engines at one address, each under a path of its own: simulated ones, by their endpoint's own documents.

    python fleet_server.py ENGINES [HANGING] [GONE]

The first HANGING never answer, the next GONE close the connection. Prints the port. ``/eN/metrics`` and ``/eN/snapshot``
answer as ``batchscope.server`` would; a second later with the next second of the simulation.
"""

import asyncio
import sys
import time

from batchscope import MetricsConfiguration, RequestTracker, SchedulerLimits, SchedulerMetricsCollector, SloTargets
from batchscope.exporters.prometheus import Exposition, Format
from batchscope.simulator import Lengths, SchedulerOptions, Simulator, SyntheticWorkload, VirtualClock

KINDS, SECONDS = 4, 40


def recorded(kind, seconds=SECONDS):
    """``(page, snapshot, with histograms)`` of each second of an engine that is more loaded the larger ``kind`` is."""
    clock, real, frames = VirtualClock(), [0.0], []
    options = SchedulerOptions(max_running_requests=32, max_scheduled_tokens=1024, kv_cache_blocks=3000)
    limits = SchedulerLimits(max_running_requests=32, max_scheduled_tokens=1024, kv_cache_blocks=3000, kv_block_size=16)
    configuration = MetricsConfiguration(slo=SloTargets(time_to_first_token=2.0))
    collector = SchedulerMetricsCollector(configuration, limits=limits, labels={"model_name": f"m{kind}"}, clock=clock)

    def sleep(duration):
        real[0] += duration
        while len(frames) < real[0]:
            plain, whole = (collector.get_snapshot().to_json(histograms=wanted) for wanted in (False, True))
            page = Exposition().render(collector.read_totals(), Format.TEXT)
            frames.append((page, plain, whole, collector.get_snapshot().instance_id.encode()))

    workload = SyntheticWorkload(
        requests=10_000, rate=1.0 + 2.0 * kind, burstiness=2.0, prompt=Lengths(median=500, sigma=0.8, cap=4000),
        output=Lengths(median=100, sigma=0.8, cap=800), seed=kind,
    )  # fmt: skip
    simulator = Simulator(
        workload, RequestTracker(collector), options=options, clock=clock, speed=1.0, sleep=sleep,
        real_clock=lambda: real[0],
    )  # fmt: skip
    simulator.run(should_stop=lambda: len(frames) >= seconds)
    collector.close()
    return frames


class FleetServer:
    """Answers by path; ``hanging`` and ``gone`` say how many of the first engines do what."""

    def __init__(self, engines, hanging=0, gone=0, kinds=KINDS, seconds=SECONDS):
        self.engines, self.hanging, self.gone = engines, hanging, gone
        self.frames = [recorded(kind, seconds) for kind in range(kinds)]
        self.begun = time.monotonic()

    def urls(self, port):
        return [f"http://127.0.0.1:{port}/e{number}/metrics" for number in range(self.engines)]

    async def serve(self):
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=512)
        return server, server.sockets[0].getsockname()[1]

    async def _answer(self, reader, writer):
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                path = request.split(b" ", 2)[1].decode()
                number, what = int(path[2:].split("/")[0]), path.rsplit("/", 1)[1]
                if number < self.hanging:
                    await asyncio.sleep(3600)
                if number < self.hanging + self.gone:
                    return
                body = self._body(number, what)
                kind = b"application/json" if what.startswith("snapshot") else b"text/plain; version=0.0.4"
                keep = b"close" if b"close" in request.lower() else b"keep-alive"
                head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n"
                writer.write(head % (kind, len(body), keep) + body)
                await writer.drain()
                if keep == b"close":
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def _body(self, number, what):
        frames = self.frames[number % len(self.frames)]
        page, plain, whole, instance = frames[min(int(time.monotonic() - self.begun), len(frames) - 1)]
        if what == "metrics":
            return page
        return (whole if "histograms" in what else plain).replace(instance, b"engine-%d" % number)


async def main():
    fleet = FleetServer(*map(int, sys.argv[1:]))
    server, port = await fleet.serve()
    print(port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
