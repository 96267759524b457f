"""Real OTLP receivers on loopback: they decode what arrives with opentelemetry-proto and answer as told."""

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)


class Received:
    """What arrived; ``answers`` are given in turn, then success. ``HANG`` answers when the receiver closes."""

    HANG = "hang"

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.headers = []
        self.closing = threading.Event()
        self._changed = threading.Condition()

    def take(self, payload, headers):
        with self._changed:
            answer = self.answers.pop(0) if self.answers else None
            self.headers.append(headers)
            if answer is None:
                self.requests.append(ExportMetricsServiceRequest.FromString(payload))
            self._changed.notify_all()
        if answer == self.HANG:
            self.closing.wait(30)
        return answer

    def wait_for(self, attempts):
        """Until so many attempts have arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.headers) >= attempts, timeout=30)

    def __exit__(self, *_):
        self.closing.set()
        self.stop()


class HttpReceiver(Received):
    """``answers``: HTTP status codes."""

    def __enter__(self):
        received = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                answer = received.take(body, {**dict(self.headers), "path": self.path})
                try:
                    self.send_response(200 if answer in (None, received.HANG) else answer)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    pass  # who asked has gone

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def stop(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class GrpcReceiver(Received, MetricsServiceServicer):
    """``answers``: gRPC status codes."""

    def __enter__(self):
        self._server = grpc.server(ThreadPoolExecutor(4))
        add_MetricsServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def Export(self, request, context):  # noqa: N802  (the name of the call)
        answer = self.take(request.SerializeToString(), dict(context.invocation_metadata()))
        if answer not in (None, self.HANG):
            context.abort(answer, "told so")
        return ExportMetricsServiceResponse()

    def stop(self):
        self._server.stop(grace=0).wait(20)


def metrics_of(request):
    """Name -> metric of one request."""
    (resource_metrics,) = request.resource_metrics
    (scope_metrics,) = resource_metrics.scope_metrics
    names = [metric.name for metric in scope_metrics.metrics]
    assert len(set(names)) == len(names)
    return dict(zip(names, scope_metrics.metrics, strict=True))


def attributes(owner):
    """Attributes of a point or a resource as a dict."""
    return {pair.key: pair.value.string_value for pair in owner.attributes}


def resource(request):
    return attributes(request.resource_metrics[0].resource)
