"""Accept and Accept-Encoding, as Prometheus and others really send them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.exporters.prometheus import Format
from batchscope.server.negotiation import accepts_gzip, choose_format

PROTO = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
OPEN = "application/openmetrics-text;version=1.0.0"
PROMETHEUS_2_42 = f"{OPEN},application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
PROMETHEUS_2_42_NATIVE = f"{PROTO},{OPEN};q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
PROMETHEUS_3 = (
    f"{PROTO};escaping=allow-utf-8;q=0.6,{OPEN};escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        (BROWSER, Format.TEXT),
        ("image/png", Format.TEXT),
        ("text/plain;version=0.0.4", Format.TEXT),
        (OPEN, Format.OPENMETRICS),
        ("application/openmetrics-text", Format.OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"; charset=utf-8', Format.OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0", Format.TEXT),
        ("application/openmetrics-text;version=0.0.1", Format.TEXT),
        (PROTO, Format.PROTOBUF),
        (PROTO.upper(), Format.PROTOBUF),
        (PROMETHEUS_2_42, Format.OPENMETRICS),
        (PROMETHEUS_2_42_NATIVE, Format.PROTOBUF),
        (PROMETHEUS_3, Format.PROTOBUF),
        ("application/vnd.google.protobuf", Format.TEXT),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily", Format.TEXT),
        (PROTO.replace("delimited", "text"), Format.TEXT),
        ("application/*", Format.TEXT),
        (f"{PROTO};q=0,*/*", Format.TEXT),
        (f"{PROTO};q=0.1,{OPEN};q=0.2", Format.OPENMETRICS),
        (f"{OPEN};q=0.3,text/plain;q=0.9", Format.TEXT),
        (f"{OPEN},{PROTO}", Format.PROTOBUF),
        (f"{OPEN};q=many", Format.TEXT),
        (f"{OPEN};q=7", Format.TEXT),
    ],
)
def test_the_wanted_format_is_served(accept, form):
    assert choose_format(accept) is form


@given(st.text(max_size=80))
def test_whatever_is_sent_some_format_is_served_and_protobuf_only_to_who_names_it(accept):
    assert choose_format(accept) is not Format.PROTOBUF
    assert accepts_gzip(accept) in {True, False}


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("*", True),
        ("*;q=0", False),
        ("identity", False),
        ("br", False),
    ],
)
def test_gzip_is_for_who_takes_it(header, wanted):
    assert accepts_gzip(header) is wanted
