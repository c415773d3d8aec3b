"""asyncio's TLS, for the usual case: what came is one record, or what is to go fits into one, and nothing is held up.

For every piece that comes asyncio reads once more than there is something to read, to be told so by an exception, and
asks at each step whether somebody was to be paused: a tenth of all that a small call takes. Invariant: it differs from
asyncio's own in nothing but time; wherever there may be more to do than the usual, asyncio's own does it.
"""

from asyncio.sslproto import SSLAgainErrors, SSLProtocol, SSLProtocolState
from collections.abc import Iterable
from typing import Any

_WRAPPED = SSLProtocolState.WRAPPED
"""The state in which data goes and comes, looked up once: members of an Enum are dear to look up."""

_ONE = 16 * 1024
"""Bytes of data that fit into one record (RFC 8446, 5.1)."""

_FATAL = "Fatal error on SSL protocol"
"""asyncio's own words."""


class UsualTls(SSLProtocol):
    """The TLS of one connection. One that is made already becomes such by its class alone, for it holds nothing new."""

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have come."""
        me: Any = self
        if me._state is not _WRAPPED or me._app_reading_paused or me._app_protocol_is_buffer:
            super().buffer_updated(nbytes)
            return
        incoming, connection = me._incoming, me._sslobj
        incoming.write(me._ssl_buffer_view[:nbytes])
        try:
            try:
                data = connection.read(nbytes)  # no record has more data than bytes
            except SSLAgainErrors:
                data = b""
            if data:
                is_all = not incoming.pending and len(data) < nbytes
                me._app_protocol.data_received(data if is_all else self._with_rest(data))
                if is_all and not me._outgoing.pending and not me._ssl_reading_paused:
                    return
        except Exception as error:  # noqa: BLE001 # as asyncio has it: whatever it is ends the connection
            me._fatal_error(error, _FATAL)
            return
        me._do_read()

    def _with_rest(self, data: bytes) -> bytes:
        """What was read, with the records that have come after it."""
        me: Any = self
        parts, more = [data], data
        try:
            while more:
                more = me._sslobj.read(_ONE)
                parts.append(more)
        except SSLAgainErrors:
            pass
        return b"".join(parts)

    def _write_appdata(self, list_of_data: Iterable[bytes]) -> None:
        """Send what ``write`` was given (one piece), or ``writelines``."""
        me: Any = self
        held_up = me._write_backlog or me._ssl_writing_paused or me._app_writing_paused
        if me._state is _WRAPPED and not held_up and isinstance(list_of_data, tuple) and len(list_of_data) == 1:
            data = list_of_data[0]
            try:
                sent = me._sslobj.write(data) if len(data) <= _ONE else 0
                me._transport.write(me._outgoing.read())
            except SSLAgainErrors:
                sent = 0
            except Exception as error:  # noqa: BLE001 # as above
                me._fatal_error(error, _FATAL)
                return
            if sent == len(data):
                return
            list_of_data = (data[sent:],)
        super()._write_appdata(list_of_data)  # type: ignore[misc] # the stubs do not have it
