"""What every convolution and norm of a WS+BCN detector is, in its micro-batch form."""
custom_imports = dict(imports=['ws_det.mmdet'], allow_failed_imports=False)
layers = dict(
    conv_cfg=dict(type='WSConv2d'),
    norm_cfg=dict(type='BCN', num_groups=32, estimate=True, requires_grad=True))
# MMDetection's own tools have them only if a config names them: a stop at NaN, before the weights
# are spoilt, and one set of estimates, which would follow each rank's own images.
custom_hooks = [dict(type='NanGuardHook'), dict(type='SyncEstBNHook')]
