"""The moments of each image and channel."""

import torch

from ws_det.moments import center


def test_moments_far_from_zero():
    """Oracle: float64. A mean 1000 deviations from zero leaves 4 of float32's 7 digits."""
    x = torch.randn(2, 3, 40, 40) + 1000
    compiled = torch.compile(center, backend="aot_eager")
    for _, (mean, rest, var) in (center(x), compiled(x)):
        torch.testing.assert_close(mean.double() + rest, x.double().mean((2, 3)), rtol=1e-6, atol=0)
        expected = x.double().var((2, 3), correction=0)
        torch.testing.assert_close(var.double(), expected, rtol=1e-3, atol=0)
