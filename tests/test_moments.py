"""The moments of each image and channel."""

import torch

from ws_det.moments import channel_moments


def test_moments_far_from_zero():
    """Oracle: float64. A mean 1000 deviations from zero leaves 4 of float32's 7 digits."""
    x = torch.randn(2, 3, 40, 40) + 1000
    compiled = torch.compile(channel_moments, backend="aot_eager")
    for moments in (channel_moments(x), compiled(x)):
        torch.testing.assert_close(moments[0].double(), x.double().mean((2, 3)), rtol=1e-6, atol=0)
        var = x.double().var((2, 3), correction=0)
        torch.testing.assert_close(moments[1].double(), var, rtol=1e-3, atol=0)
