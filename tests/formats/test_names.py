"""Templates of names. Oracle: names written out by hand."""

from __future__ import annotations

import pytest

from ws_det.formats.names import Renamer, split

PAIRS = [
    ("layer{s}.{b}.conv{n}", "res{s+1}.{b}.conv{n}"),
    ("convs.{i}.conv", "tower.{i*3}"),
    ("convs.{i}.norm", "tower.{i*3+1}"),
    ("fc{i}", "fc{i+6}"),
    ("stem_norm", "{norm}1"),
]
NAMES = {
    "layer4.22.conv3": "res5.22.conv3",
    "convs.2.conv": "tower.6",
    "convs.0.norm": "tower.1",
    "convs.3.norm": "tower.10",
    "fc1": "fc7",
    "stem_norm": "gn1",
}


@pytest.mark.parametrize(("ours", "theirs"), NAMES.items())
def test_both_ways(ours: str, theirs: str) -> None:
    assert Renamer(PAIRS)(ours, "gn") == theirs
    assert Renamer((theirs, ours) for ours, theirs in PAIRS)(theirs) == ours


@pytest.mark.parametrize(
    "name",
    [
        "res0.0.conv1",
        "res2.00.conv1",
        "tower.2",
        "fc5",
        "xres2.0.conv1",
        "res2.0.conv1.x",
        "in1",
        "",
    ],
)
def test_a_name_that_fits_nowhere(name: str) -> None:
    """A stage before the first, a ReLU's place, a number that no project writes."""
    assert Renamer((theirs, ours) for ours, theirs in PAIRS)(name) is None


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("a.b.weight", ("a.b", "weight")),
        ("a.conv1.weight_gamma", ("a.conv1", "weight_gamma")),
        ("bn.num_batches_tracked", ("bn", "num_batches_tracked")),
        ("weight", ("weight", "")),
        ("a.conv_offset", ("a.conv_offset", "")),
    ],
)
def test_split(key: str, parts: tuple[str, str]) -> None:
    assert split(key) == parts
