"""HTTP where there may be a proxy: a server on this machine is reached directly, and a proxy is named when it is in
the way.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

import httpx

from btlib.errors import BtlibError


def is_here(url: str) -> bool:
    """Tell whether a URL's host is this machine: localhost, 127.0.0.1, [::1], 0.0.0.0 and their like."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def proxy_of(url: str) -> str:
    """Return the proxy that requests to a URL go through, without name and password; "" where they go directly."""
    parts, proxies = urlsplit(url), getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or is_here(url) or proxy_bypass(parts.hostname or ""):
        return ""
    shown = urlsplit(found if "://" in found else f"http://{found}")
    return urlunsplit(shown._replace(netloc=shown.netloc.rpartition("@")[2]))


def through(url: str) -> str:
    """Return a note for an error on a request to a URL: which proxy it went through, or ""."""
    proxy = proxy_of(url)
    host = urlsplit(url).hostname
    return f", through the proxy {proxy}: set NO_PROXY={host} if it is not to be used" if proxy else ""


def client(url: str, **how: Any) -> httpx.Client:
    """Return an HTTP client for a server; a proxy that cannot be used is a BtlibError."""
    if is_here(url):  # certificates are still those of the environment
        return httpx.Client(trust_env=False, verify=httpx.create_ssl_context(), **how)
    try:
        return httpx.Client(**how)
    except (ImportError, ValueError, httpx.InvalidURL) as error:  # of any proxy in the environment
        names = ", ".join(name for name in os.environ if name.lower().endswith("_proxy") and name.lower() != "no_proxy")
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise BtlibError(
            f"the proxy of the environment ({names}) cannot be used ({reason}); name one as http://HOST:PORT, install "
            "`httpx[socks]` for socks5://, or unset it"
        ) from error


def only_http_proxy(url: str) -> None:
    """Refuse a proxy that DSPy's requests to a URL cannot go through: they take http:// ones only."""
    proxy = proxy_of(url)
    if proxy and not proxy.startswith("http://"):
        raise BtlibError(
            f"requests to LMs cannot go through the proxy {proxy}, only through one with http://; "
            f"set NO_PROXY={urlsplit(url).hostname} if the server is reached without it"
        )


def go_directly(url: str) -> None:
    """Let this process reach a server on this machine without a proxy, whichever library asks: by NO_PROXY."""
    host = urlsplit(url).hostname
    proxies = getproxies_environment()
    if not host or not is_here(url) or set(proxies) <= {"no"}:
        return
    hosts = [part.strip() for part in proxies.get("no", "").split(",") if part.strip()]
    if host not in hosts:
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join([*hosts, host])
