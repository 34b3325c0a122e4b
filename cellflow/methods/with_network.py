"""Another network for a method: by name, by shape, of one's own, or as the course suggests."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from cellflow import _checks
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.iterated import Iterated
from cellflow.methods.method import Method
from cellflow.methods.simulating import CNF, Shooting
from cellflow.networks import NETWORKS, MLPConfig, NetworkLike, Suggestion, as_network_config


def with_network(method: Method, network: str | NetworkLike | Suggestion) -> Method:
    """Return a method with another network, and all else as it is.

    Of an :class:`Iterated` `method`, what it iterates gets the network. The `network` is a name in
    :data:`cellflow.networks.NETWORKS`, for its defaults; its shape; networks of one's own, as
    :func:`cellflow.networks.as_network_config` takes them; or what
    :func:`cellflow.networks.suggested` says, a perceptron that knows of the time what one of the
    method does, and for :class:`FlowMatching` its learning rate and blocks.
    Raises TypeError if the method has no network, or learns averages of the velocity and the
    network does not.
    """
    if isinstance(method, Iterated):
        return replace(method, base=cast(FlowMatching, with_network(method.base, network)))
    if not isinstance(method, FlowMatching | CNF | Shooting):
        expected = "a method that has one, such as OTCFM()"
        raise TypeError(_checks.message("network", f"one for {type(method).__name__}", expected))
    old = method.net if isinstance(method.net, MLPConfig) else MLPConfig()
    if isinstance(network, Suggestion):
        if isinstance(method, FlowMatching):
            training = replace(method.training, learning_rate=network.learning_rate)
            batching = replace(method.batching, block_size=network.block_size)
            method = replace(method, training=training, batching=batching)
        network = replace(old, width=network.width, depth=network.depth)
    elif isinstance(network, str):
        network = NETWORKS[_checks.choice(network, NETWORKS, "network")]()
    net = as_network_config(network)
    if not old.average:
        return replace(method, net=net)
    if not isinstance(net, MLPConfig):
        got, expected = type(net).__name__, "an MLPConfig, which is told until when"
        raise TypeError(_checks.message("network", got, expected))
    return replace(method, net=replace(net, average=True))
