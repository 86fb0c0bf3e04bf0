"""Safe loading, and the family of norms told from really trained weights."""

import math

import pytest
import torch
from torch import nn

from ws_det import BatchChannelNorm2d, InputError, WSConv2d, fold_ws
from ws_det.checkpoint import load_checkpoint, mean_ratio, norm_family, state_dict_of


class Bomb:
    """A pickle that runs code when it is loaded unsafely."""

    def __reduce__(self):
        return (open, ("/dev/null",))


def test_loads_what_torch_saved(tmp_path):
    """Oracle: the saved tensors, bare and under the keys of both frameworks."""
    weights = {"conv.weight": torch.randn(4, 3, 3, 3)}
    for saved in (weights, {"state_dict": weights, "meta": {"epoch": 1}}, {"model": weights}):
        torch.save(saved, tmp_path / "good.pth")
        loaded = state_dict_of(load_checkpoint(tmp_path / "good.pth"))
        assert torch.equal(loaded["conv.weight"], weights["conv.weight"])


def broken_files(tmp_path):
    torch.save({"w": torch.randn(1000)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "truncated.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save({"w": Bomb()}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    return [*(tmp_path / f"{n}.pth" for n in ("truncated", "empty", "text", "code", "list")),
            tmp_path / "missing.pth"]  # fmt: skip


def test_broken_files_give_one_sentence_with_the_path(tmp_path):
    """Oracle: InputError, one line, the path in it, whatever is wrong with the file."""
    for path in broken_files(tmp_path):
        with pytest.raises(InputError) as error:
            load_checkpoint(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value), path
    with pytest.raises(InputError, match="more than tensors"):
        load_checkpoint(tmp_path / "code.pth")


def trained(conv, norm, steps=150):
    """A small network trained by SGD, the optimizer of every published backbone.

    Task: which of four orientations a noisy stripe pattern on a bright ground has. ReLU features
    and bright images are positive, which is what trains the means of plain filters.
    """
    model = nn.Sequential(
        conv(3, 16, 3, bias=False), norm(16), nn.ReLU(),
        conv(16, 32, 3, stride=2, bias=False), norm(32), nn.ReLU(),
        conv(32, 32, 3, bias=False), norm(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    angles = torch.arange(4) * math.pi / 4
    waves = torch.stack([torch.sin(a.cos() * rows + a.sin() * columns) for a in angles])
    for _ in range(steps):
        labels = torch.randint(4, (16,))
        images = waves[labels, None] + torch.randn(16, 3, 16, 16) + 2
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


FAMILIES = {
    "gn": (nn.Conv2d, lambda c: nn.GroupNorm(4, c)),
    "gn+ws": (WSConv2d, lambda c: nn.GroupNorm(4, c)),
    "bn": (nn.Conv2d, nn.BatchNorm2d),
    "bcn": (WSConv2d, lambda c: BatchChannelNorm2d(c, 4)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_of_trained_weights(family):
    """Oracle: how the weights were trained, here, in this test."""
    model = trained(*FAMILIES[family])
    assert norm_family(model.state_dict()) == family


def test_family_of_folded_and_of_random_weights():
    """Oracle: the mark; and random kernels, which must not be taken for GN weights."""
    model = nn.Sequential(WSConv2d(3, 64, 3), nn.GroupNorm(4, 64))
    assert norm_family(model.state_dict()) == "gn+ws"
    assert norm_family(fold_ws(model).state_dict()) == "folded"


def test_mean_ratio_of_random_filters():
    """Oracle: the median of |N(0, 1)|, 0.6745; 4000 filters leave it within 0.05."""
    assert mean_ratio({"w": torch.randn(4000, 16, 3, 3)}) == pytest.approx(0.6745, abs=0.05)
    assert mean_ratio({"fc.weight": torch.randn(4, 4)}) == 0
