"""What every convolution and norm of a GN+WS detector is: `_base_.layers` in the named configs."""
custom_imports = dict(imports=['ws_det.mmdet'], allow_failed_imports=False)
layers = dict(
    conv_cfg=dict(type='WSConv2d'),
    norm_cfg=dict(type='GN', num_groups=32, requires_grad=True))
# MMDetection's own tools stop at NaN, before the weights are spoilt, only if a config says so.
custom_hooks = [dict(type='NanGuardHook')]
