import lzma
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from masche.wire.decode.decoders import decoders
from masche.wire.framing import WireError
from masche.wire.messages import encode
from masche.wire.pool import DISCOVERY, ENVOY, LIBRARY, message_class, pool
from masche.wire.types import CLUSTER

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import extract_descriptors


@pytest.fixture(scope="module")
def extracted():
    return dict(
        zip((ENVOY, DISCOVERY, LIBRARY), extract_descriptors.extract(extract_descriptors.envoy_binary()), strict=True)
    )


@pytest.mark.parametrize("subset", [ENVOY, DISCOVERY, LIBRARY])
def test_the_packaged_descriptors_are_those_of_the_installed_envoy(extracted, subset) -> None:
    packaged = lzma.decompress(files("masche.wire").joinpath(f"{subset}.binpb.xz").read_bytes())
    assert packaged == extracted[subset].SerializeToString(deterministic=True)


def test_the_full_set_knows_every_message_that_a_proxy_is_configured_with() -> None:
    assert message_class("envoy.config.bootstrap.v3.Bootstrap").DESCRIPTOR.fields_by_name["static_resources"]


def test_the_subset_holds_no_message_that_only_the_control_plane_needs() -> None:
    assert message_class("envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig", DISCOVERY)
    with pytest.raises(KeyError):
        pool(DISCOVERY).FindMessageTypeByName("envoy.config.listener.v3.Listener")


def test_a_library_loads_only_the_messages_that_it_decodes() -> None:
    assert message_class("envoy.config.listener.v3.Listener", LIBRARY)
    with pytest.raises(KeyError):
        pool(LIBRARY).FindMessageTypeByName("envoy.config.bootstrap.v3.Bootstrap")


def test_a_library_knows_every_field_of_a_message_that_it_reads_and_nothing_of_one_that_it_does_not() -> None:
    for name in ("envoy.config.cluster.v3.Cluster", "envoy.config.route.v3.RouteAction", "envoy.config.rbac.v3.Policy"):
        ours, whole = message_class(name, LIBRARY).DESCRIPTOR, message_class(name).DESCRIPTOR
        assert {each.number: each.name for each in ours.fields} == {each.number: each.name for each in whole.fields}
        assert all(each.is_repeated == ours.fields_by_name[each.name].is_repeated for each in whole.fields)
    subsets = message_class("envoy.config.cluster.v3.Cluster", LIBRARY).DESCRIPTOR.fields_by_name["lb_subset_config"]
    assert subsets.type == subsets.TYPE_BYTES, "it is refused where it is set, and never opened"
    with pytest.raises(KeyError):
        pool(LIBRARY).FindMessageTypeByName("envoy.config.cluster.v3.Cluster.LbSubsetConfig")


def test_what_a_library_does_not_read_is_refused_by_its_name() -> None:
    foreign = encode("envoy.config.cluster.v3.Cluster", {"name": "a", "lb_subset_config": {"list_as_any": True}})
    with pytest.raises(WireError, match="lb_subset_config is not carried out here"):
        decoders[CLUSTER]("a", foreign)


_DECODING = """
from masche.wire import types
from masche.wire.decode.decoders import decoders
from masche.wire.framing import WireError, field
from masche.wire.pool import pool

for type_url in decoders:
    try:
        decoders[type_url]("", field(1, b"a"))
    except WireError:
        pass
print(pool.cache_info().currsize)
"""


def test_who_only_decodes_loads_the_librarys_subset_alone() -> None:
    done = subprocess.run([sys.executable, "-c", _DECODING], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_messages_are_read_as_well_where_protobuf_is_carried_out_in_python() -> None:
    program = (
        "from masche.wire.pool import LIBRARY, message_class;"
        "made = message_class('envoy.config.cluster.v3.Cluster', LIBRARY);"
        "print(type(made).__module__, made.FromString(bytes.fromhex('0a01782202080f')).connect_timeout.seconds)"
    )
    told = {
        chosen: subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": chosen},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout.split()
        for chosen in ("upb", "python")
    }  # fmt: skip
    assert [each[1] for each in told.values()] == ["15", "15"]
    assert told["python"][0] == "google.protobuf.internal.python_message" != told["upb"][0]
