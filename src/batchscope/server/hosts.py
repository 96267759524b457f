"""Which Host headers are answered: a page in a browser must not read an endpoint through a name of its own.

DNS rebinding: a page of ``evil.example`` lets that name lead to 127.0.0.1 and asks ``http://evil.example:9464``; to the
browser that is the page's own origin. What it cannot choose is the Host header, which says ``evil.example``.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from batchscope.errors import ConfigurationError

HOSTS_VARIABLE = "BATCHSCOPE_ALLOWED_HOSTS"
ANY = "*"
_BRACKETS = re.compile(r"\[([^\]]*)\](:\d*)?")
_PORT = re.compile(r":\d*$")
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_ALLOWED = f"names or addresses without a port, such as metrics.example, or {ANY} for all"


class AllowedHosts(NamedTuple):
    """Which names are ours; ``addresses``: every address as well, which no page can make its own."""

    names: frozenset[str]
    addresses: bool = False

    def allows(self, host: str | None) -> bool:
        """Whether the value of a Host header is one of ours; a client without one is no browser."""
        if host is None or ANY in self.names:
            return True
        name = bare_name(host)
        if name in self.names or name == "localhost" or name.endswith(".localhost"):
            return True
        address = _address(name)
        return address is not None and (self.addresses or address.is_loopback)


def declared_hosts(given: Collection[str] | None, environment: Mapping[str, str] = os.environ) -> frozenset[str] | None:
    """The names as given, else those of the variable, comma-separated; None = nobody said. ConfigurationError."""
    field, said = "allowed_hosts", given
    if given is None and HOSTS_VARIABLE in environment:
        field, said = HOSTS_VARIABLE, [one.strip() for one in environment[HOSTS_VARIABLE].split(",")]
    if said is None:
        return None
    if isinstance(said, str | bytes) or not isinstance(said, Collection):
        raise ConfigurationError(field, said, f"several {_ALLOWED}")
    for one in said:
        if not isinstance(one, str) or not (one == ANY or _NAME.fullmatch(one) or _address(bare_name(one))):
            raise ConfigurationError(field, one, _ALLOWED)
    return frozenset(bare_name(one) for one in said)


def allowed_hosts(host: str, bound: str, declared: frozenset[str] | None, *, protected: bool) -> AllowedHosts:
    """What an endpoint answers to that was told to listen on ``host``, which is the address ``bound``.

    On loopback: loopback's addresses, localhost, ``host`` and what is ``declared``. Beyond it nobody here can know
    the names, and with a token (``protected``) no page can read it: everything, unless names are declared.
    """
    beyond = not ipaddress.ip_address(bound.partition("%")[0]).is_loopback
    if declared is None and (beyond or protected):
        return AllowedHosts(frozenset({ANY}))
    return AllowedHosts((declared or frozenset()) | {bare_name(host), bare_name(bound)}, addresses=beyond)


def bare_name(host: str) -> str:
    """A Host header's value without its port, brackets and final dot, in lower case."""
    host = host.strip().lower()
    if found := _BRACKETS.fullmatch(host):
        return found[1]
    return host if host.count(":") > 1 else _PORT.sub("", host).removesuffix(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that ``name`` is; one of IPv4 within IPv6 as that of IPv4."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if isinstance(mapped, ipaddress.IPv4Address) else address
