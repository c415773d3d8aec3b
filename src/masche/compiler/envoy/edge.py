"""What every listener and every connection manager carries, whoever may reach it: limits and normalisation.

Decided from nothing: the same for all, so that no listener can be forgotten. Invariant: a request that reaches a policy
or a route has one path, however the caller spelled it, and no caller holds more than a bounded share of the proxy.
"""

from masche.wire.messages import Body

BUFFER_BYTES = 32 * 1024
STREAM_WINDOW_BYTES = 64 * 1024
CONNECTION_WINDOW_BYTES = 1024 * 1024
MAX_CONNECTION_AGE = 3600.0
IDLE_TIMEOUT = 300.0

LISTENER: Body = {
    # Back-pressure begins after 32 KiB per connection, so that slow readers cost little memory.
    "per_connection_buffer_limit_bytes": BUFFER_BYTES,
    # A caller that sends nothing after connecting must not hold a listener filter for long.
    "listener_filters_timeout": 0.5,
    # One wake-up accepts some connections, not all, so that those already there are served as well.
    "max_connections_to_accept_per_socket_event": 64,
    # The kernel finds peers that vanished without a word.
    "tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 30, "keepalive_interval": 10},
}
"""Fields of every listener that binds a port."""

HTTP2: Body = {
    # One connection holds at most this many open requests.
    "max_concurrent_streams": 100,
    # A stream that nobody reads buffers 64 KiB, a connection 1 MiB.
    "initial_stream_window_size": STREAM_WINDOW_BYTES,
    "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
    # Frames that we owe to a peer which does not read: pings, settings and resets are cheap to provoke.
    "max_outbound_frames": 10_000,
    "max_outbound_control_frames": 1_000,
    # Frames that do nothing are a flood.
    "max_consecutive_inbound_frames_with_empty_payload": 1,
    "max_inbound_priority_frames_per_stream": 100,
    "max_inbound_window_update_frames_per_data_frame_sent": 10,
    # One broken request ends its stream, not the other callers' of a shared connection.
    "override_stream_error_on_invalid_http_message": True,
    # Extended CONNECT (RFC 8441) carries WebSockets; it is refused where no upgrade is configured.
    "allow_connect": True,
    # A peer that is gone is noticed while requests wait for it.
    "connection_keepalive": {"interval": 30, "timeout": 10},
}
"""HTTP/2 as a server speaks it."""

CONNECTION_MANAGER: Body = {
    # The peer's address is who is there, not what a header claims.
    "use_remote_address": True,
    # No address is "internal": x-envoy-* headers of every caller are removed.
    "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
    # /a/../b is /b before anything looks at it.
    "normalize_path": True,
    # //a is /a.
    "merge_slashes": True,
    # %2F and %5C in a path read differently to different servers: refused instead of guessed at.
    "path_with_escaped_slashes_action": "REJECT_REQUEST",
    # "orders." is "orders".
    "strip_trailing_host_dot": True,
    # Headers of one request: 60 KiB and 100 of them.
    "max_request_headers_kb": 60,
    # The headers of a request arrive within 10 s (slow loris).
    "request_headers_timeout": 10,
    # A stream on which nothing moves for five minutes is over, and so is one whose last bytes nobody takes.
    "stream_idle_timeout": IDLE_TIMEOUT,
    # A connection that is asked to close gets this long to finish what it carries.
    "drain_timeout": 5,
    # After the last byte a peer has this long to close.
    "delayed_close_timeout": 1,
    # An HTTP/1 connection that is too old ends after an answer, never in the middle of one.
    "http1_safe_max_connection_duration": True,
    # A malformed request is answered 400 on HTTP/1 and the connection closed.
    "stream_error_on_invalid_http_message": False,
    "common_http_protocol_options": {
        # a_b and a-b are one header to many servers: refused instead of guessed at.
        "headers_with_underscores_action": "REJECT_REQUEST",
        "max_headers_count": 100,
        "idle_timeout": IDLE_TIMEOUT,
        # Nobody keeps an old certificate alive by never hanging up; spread over a tenth of the time.
        "max_connection_duration": MAX_CONNECTION_AGE,
        "max_connection_duration_jitter": {"value": 10},
        # A connection is renewed now and then even when it is never idle.
        "max_requests_per_connection": 100_000,
    },
    # Content-Length together with Transfer-Encoding is refused, not repaired (request smuggling); no unknown methods.
    # HTTP/1.0 is understood, because Python's own client opens its tunnels with it.
    "http_protocol_options": {"allow_chunked_length": False, "allow_custom_methods": False, "accept_http_10": True},
    "http2_protocol_options": HTTP2,
    # A name of the server's software helps nobody but an attacker.
    "server_header_transformation": "PASS_THROUGH",
    # A request keeps the id it came with, so that logs of several proxies meet.
    "preserve_external_request_id": True,
}
"""Fields of every HTTP connection manager.

A URL's fragment is refused by Envoy itself (``http_reject_path_with_fragment``), the number of connections and the
memory of the whole proxy are limited in its bootstrap, and CONNECT is refused where ``upgrade_configs`` lacks it.
"""
