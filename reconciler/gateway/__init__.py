"""One HAProxy, supervised: it owns the public routes and knows cells only as data."""

from reconciler.gateway.settings import GatewaySettings
from reconciler.gateway.supervisor import HAProxyGateway

__all__ = ["GatewaySettings", "HAProxyGateway"]
