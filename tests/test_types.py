"""What networks say of themselves is read in one place, also through everything that holds a network."""

from __future__ import annotations

import pytest
from tools import tiny_unet
from torch import nn

from flowlit._support.batch_invariance import BatchInvariant
from flowlit.frozen import Frozen
from flowlit.networks import EDM, ClassifierFreeGuidance
from flowlit.types import classes_of, evaluations_of, label_dropout_of, loaded_of, reads_of, shape_of


def test_a_network_that_says_nothing_has_defaults():
    network = nn.Linear(2, 2)
    assert shape_of(network) is classes_of(network) is label_dropout_of(network) is None
    assert reads_of(network) is loaded_of(network) is None
    assert evaluations_of(network) == 1


@pytest.mark.parametrize("hold", [Frozen, BatchInvariant, EDM, lambda network: network])
def test_what_a_network_reads_and_costs_is_said_by_what_holds_it(hold):
    network = tiny_unet(num_classes=3, label_dropout=0.1, time_scale=1.0)
    guided = hold(ClassifierFreeGuidance(network, 2.0))
    assert evaluations_of(guided) == 2 and reads_of(guided) == {"label"}
    assert reads_of(hold(tiny_unet(time_scale=1.0))) == frozenset()


def test_wrappers_say_what_the_network_inside_says():
    network = tiny_unet(num_classes=3, label_dropout=0.1, time_scale=1.0)
    network.loaded = {"file": "x"}
    outside = EDM(network)
    assert (shape_of(outside), classes_of(outside), label_dropout_of(outside)) == ((1, 8, 8), 3, 0.1)
    assert loaded_of(outside) == {"file": "x"}
