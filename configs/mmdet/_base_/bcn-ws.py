"""What every convolution and norm of a WS+BCN detector is, in its micro-batch form."""
custom_imports = dict(imports=['ws_det.mmdet'], allow_failed_imports=False)
layers = dict(
    conv_cfg=dict(type='WSConv2d'),
    norm_cfg=dict(type='BCN', num_groups=32, estimate=True, requires_grad=True))
# The estimates follow each rank's own images; the hook keeps them equal on all ranks.
custom_hooks = [dict(type='SyncEstBNHook')]
