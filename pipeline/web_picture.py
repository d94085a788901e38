"""A picture over HTTP: checked addresses, checked redirects, bounded size and time.

The name is resolved once, every address it has is checked, and the connection goes to the address that was checked: a
name that resolves to something else a moment later (DNS rebinding) changes nothing. Proxies of the environment are not
used, for they would resolve the name anew.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from urllib.parse import SplitResult, urljoin, urlsplit

_TIMEOUT = 30.0
_DEADLINE = 120.0
_REDIRECTS = 5
_CHUNK = 1 << 20
# Services that hand credentials to whoever asks from inside a cloud and are at addresses that are not link-local.
_METADATA = frozenset({"fd00:ec2::254", "100.100.100.200", "168.63.129.16"})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class RefusedError(ValueError):
    """A place that must not be read from; the text says why."""


def fetch(url: str, allowed: Callable[[str], bool], loopback: Callable[[str], bool], most: int) -> bytes:
    """The body behind a URL.

    Args:
        url: http or https; the caller has asked ``allowed``.
        allowed: whether a URL may be read; asked of each redirect.
        loopback: whether this machine may be spoken to under a host's name, because the config names it.
        most: bytes at most.

    Raises:
        RefusedError: a redirect or an address that is not allowed, or a larger body.
        OSError: it cannot be reached, or answers with an error.
    """
    deadline = time.monotonic() + _DEADLINE
    for _ in range(_REDIRECTS):
        parts = urlsplit(url)
        connection = _connect(parts, loopback(parts.hostname or ""))
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"User-Agent": "promptmill", "Accept": "image/*"})
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308):
                url = urljoin(url, answer.headers.get("Location", ""))
                if not allowed(url):
                    raise RefusedError("it redirects to a place that is not allowed")
                continue
            if answer.status != 200:
                raise OSError(f"the server answered {answer.status}")
            return _body(answer, most, deadline)
        except http.client.HTTPException as error:
            raise OSError(f"no answer in HTTP ({type(error).__name__})") from error
        finally:
            connection.close()
    raise RefusedError(f"it redirects more than {_REDIRECTS} times")


def _body(answer: http.client.HTTPResponse, most: int, deadline: float) -> bytes:
    parts, size = [], 0
    while chunk := answer.read1(_CHUNK):
        parts.append(chunk)
        size += len(chunk)
        if size > most:
            raise RefusedError(f"it has more than {most} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError(f"it is not there after {_DEADLINE:.0f} s")
    if answer.length:
        raise OSError("the connection was cut")
    return b"".join(parts)


def _connect(parts: SplitResult, loopback: bool) -> http.client.HTTPConnection:
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise OSError("there is no such host") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        _check(address, loopback)
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
    plain = socket.create_connection((addresses[0], port), timeout=_TIMEOUT)
    connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
    return connection


def _check(address: str, loopback: bool) -> None:
    for one in _meanings(ipaddress.ip_address(address.partition("%")[0])):
        if one.is_loopback and loopback:
            continue
        if one.is_loopback or one.is_link_local or one.is_unspecified or one.is_multicast or str(one) in _METADATA:
            raise RefusedError("its host is this machine or a link-local address, which is never read over HTTP")


def _meanings(address: Address) -> list[Address]:
    """An address, and the IPv4 address inside it where it is a way to write one (mapped, 6to4, NAT64)."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    found: list[Address] = [address]
    found += [inner for inner in (address.ipv4_mapped, address.sixtofour) if inner is not None]
    if address in ipaddress.ip_network("64:ff9b::/96") or int(address) >> 32 == 0:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found
