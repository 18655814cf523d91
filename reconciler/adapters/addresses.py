"""Which addresses of the network no user-given name may lead to, whatever it resolves to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

METADATA = tuple(
    map(
        ip_network,
        (
            "169.254.0.0/16",  # AWS, Azure, Google, OpenStack, DigitalOcean, ECS: all of it is link-local
            "fe80::/10",
            "fd00:ec2::/32",  # AWS over IPv6
            "fd20:ce::/32",  # Google over IPv6
            "fd00:c1::a9fe:a9fe/128",  # Oracle over IPv6
            "fd00:42::42/128",  # Scaleway over IPv6
            "100.100.100.200/32",  # Alibaba
            "168.63.129.16/32",  # Azure's own agent
            "192.0.0.192/32",  # Oracle, first generation
        ),
    )
)
"""Link-local networks, and where clouds hand a machine's credentials to whoever asks from it."""

TRANSLATED = tuple(map(ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")))
"""Where a translator on the way (NAT64, also a network's own, and SIIT) takes the last bits for an IPv4 address."""
COMPATIBLE = ip_network("::/96")
LOCAL_NAMES = ("localhost", "ip6-localhost")


def is_loopback_name(host: str) -> bool:
    """Return whether a host is written as this very machine: `localhost`, `127.0.0.1` or `::1`."""
    if host in LOCAL_NAMES:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def why_forbidden(text: str, *, may_be_loopback: bool) -> str:
    """Return why nothing is sent to an address, or "" when it may be.

    `may_be_loopback` is for hosts that the settings allow by that very name: a name of the network that leads
    to this machine would reach Ray's dashboard and the daemon itself.
    """
    address = ip_address(text.partition("%")[0])
    return next((why for form in _forms(address) if (why := _why(form, may_be_loopback=may_be_loopback))), "")


def _forms(address: Address) -> list[Address]:
    """Return an address and the IPv4 addresses that translators on the way would make of it."""
    forms: list[Address] = [address]
    if isinstance(address, IPv6Address):
        teredo = address.teredo[1] if address.teredo else None
        last = IPv4Address(int(address) & 0xFFFFFFFF)
        is_translated = any(address in network for network in TRANSLATED)
        embedded = last if is_translated or (address in COMPATIBLE and int(address) > 1) else None
        forms += [found for found in (address.ipv4_mapped, address.sixtofour, teredo, embedded) if found is not None]
    return forms


def _why(address: Address, *, may_be_loopback: bool) -> str:
    if any(address.version == network.version and address in network for network in METADATA):
        return f"{address} is link-local or a cloud's metadata address, which is always refused"
    if address.is_loopback and not may_be_loopback:
        return f"{address} is this machine; only a host that is allowed as localhost, 127.0.0.1 or ::1 may lead there"
    if address.is_multicast or address.is_unspecified or _is_reserved(address):
        return f"{address} is no address of a server"
    return ""


def _is_reserved(address: Address) -> bool:
    """Tell networks that mean no host: 0.0.0.0/8 is this machine in disguise, 240.0.0.0/4 and above nobody."""
    return isinstance(address, IPv4Address) and (address.packed[0] == 0 or address.packed[0] >= 240)
