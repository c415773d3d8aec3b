"""The type URLs of the resources that travel over xDS, as Envoy spells them."""

PREFIX = "type.googleapis.com/"

CLUSTER = f"{PREFIX}envoy.config.cluster.v3.Cluster"
ENDPOINTS = f"{PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = f"{PREFIX}envoy.config.listener.v3.Listener"
ROUTES = f"{PREFIX}envoy.config.route.v3.RouteConfiguration"
SECRET = f"{PREFIX}envoy.extensions.transport_sockets.tls.v3.Secret"

MAKE_BEFORE_BREAK = (CLUSTER, ENDPOINTS, LISTENER, ROUTES)
"""The order in which additions are sent: what is pointed at comes before what points. Removals go the other way."""
