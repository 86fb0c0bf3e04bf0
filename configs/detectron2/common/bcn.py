"""BCN in its micro-batch form: what ``model.module.backbone.norm`` is in the WS+BCN configs."""

from functools import partial

from ws_det import BatchChannelNorm2d

norm = partial(BatchChannelNorm2d, num_groups=32, estimate=True)
