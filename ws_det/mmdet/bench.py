"""A whole training step of MMDetection's Mask R-CNN, and mmcv's own WS, for the benchmark."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import chain
from types import SimpleNamespace

import torch
from mmcv.cnn.bricks.conv_ws import ConvAWS2d, conv_ws_2d
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ws_det.bench.counts import saved_bytes
from ws_det.bench.peers import Peer, without_convolution
from ws_det.bench.rounds import Comparison, Target, check_equal
from ws_det.paths import config_path

GN, OURS, MMCV, BCN = "GN", "WS+GN (ws_det)", "WS+GN (mmcv ConvWS)", "WS+BCN (ws_det)"
_NAME = "mask-rcnn_r50_fpn_{}-all_2x_coco"
_CONFIGS = {GN: "gn", OURS: "gn-ws", MMCV: "gn-ws", BCN: "bcn-ws"}


def mmcv_peers() -> list[Peer]:
    """The two WS convolutions of mmcv, by their own code."""
    conv_ws = without_convolution(conv_ws_2d)

    def conv_aws(weight: Tensor) -> Tensor:
        shape = (weight.shape[0], 1, 1, 1)
        gain, bias = weight.new_ones(shape), weight.new_zeros(shape)
        return ConvAWS2d._get_weight(SimpleNamespace(weight_gamma=gain, weight_beta=bias), weight)

    return [
        Peer("mmcv ConvWS", lambda weight: conv_ws(weight, weight), "ws"),
        Peer("mmcv ConvAWS", conv_aws, "bcn"),
    ]


def compare_step(
    size: tuple[int, int],
    quick: bool = False,
    device: str = "cpu",
    amp: bool = False,
    channels_last: bool = False,
    compiled: bool = False,
) -> Comparison:
    """Mask R-CNN R50-FPN on one image: forward, backward and SGD, all weights trained.

    With a variant all models take it, and GN without it is one arm more and the baseline.

    Args:
        size: Height and width of the image.
        quick: A narrow ResNet-18 and few RoIs instead.
        device: Where to train.
        amp: Autocast to bfloat16.
        channels_last: Kernels and image in that memory format.
        compiled: Backbone and neck compiled; the RoI heads would break the graph.

    Raises:
        RuntimeError: If mmcv's WS and ours, or a model and its variant, differ in their losses.
    """
    register_all_modules(init_default_scope=True)
    variant = ", ".join(
        word
        for word, chosen in (("amp", amp), ("channels-last", channels_last), ("compiled", compiled))
        if chosen
    )
    trainers = {GN: Trainer(GN, size, quick, device)} if variant else {}
    names = {name: f"{name}, {variant}" if variant else name for name in _CONFIGS}
    skipped = {names[MMCV]: "it refuses kernels in channels-last"} if channels_last else {}
    for name, named in names.items():
        if named not in skipped:
            trainers[named] = Trainer(name, size, quick, device, amp, channels_last, compiled)
    # Roundings in the format used, through some seventy layers.
    rtol = 5e-2 if amp else 1e-3
    for name, same in ((names[MMCV], names[OURS]), (names[GN], GN)):
        if name in trainers:
            check_equal(name, [trainers[name].losses()], [trainers[same].losses()], rtol)
    return Comparison(
        f"Mask R-CNN R50-FPN, training step of one image of {size[0]} x {size[1]}",
        {name: trainer.step for name, trainer in trainers.items()},
        baseline=GN,
        # The target was set for a GPU, where everything else is faster; it is kept everywhere.
        targets=[Target(names[OURS], names[GN], 1.01)],
        skipped=skipped,
        counts={"memory, MB": {name: t.memory() / 1e6 for name, t in trainers.items()}},
        images=1,
    )


class Trainer:
    """One model with its image: every step of it does the same work, and so does every model's.

    Predictors of the RPN that are zero propose the same boxes whatever the features, the seed
    draws the same RoIs from them, and SGD at rate zero leaves the weights as they are.
    """

    def __init__(
        self,
        name: str,
        size: tuple[int, int],
        quick: bool,
        device: str,
        amp: bool = False,
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        self.device, self.amp = device, amp
        torch.manual_seed(0)
        self.model = MODELS.build(_model_config(name, quick)).to(device).train()
        for layer in (self.model.rpn_head.rpn_cls, self.model.rpn_head.rpn_reg):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        data = demo_mm_inputs(1, [[3, *size]], num_classes=80, with_mask=True)
        self.data = self.model.data_preprocessor(data, training=True)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
            self.data["inputs"] = self.data["inputs"].contiguous(memory_format=torch.channels_last)
            _give_contiguous_levels(self.model.roi_head)
        if amp:
            _keep_float32_between_parts(self.model)
        if compiled:
            self.model.backbone.compile()
            self.model.neck.compile()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4
        )

    def losses(self) -> Tensor:
        """The sum of the losses."""
        torch.manual_seed(0)
        autocast = torch.autocast(self.device, torch.bfloat16) if self.amp else nullcontext()
        with autocast:
            return self.model.parse_losses(self.model(**self.data, mode="loss"))[0]

    def step(self) -> None:
        """Forward, backward, update."""
        self.losses().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def memory(self) -> int:
        """Bytes beyond the models: on a GPU the peak of a step, on a CPU what backward needs."""
        if self.device == "cpu":
            held = chain(self.model.parameters(), self.model.buffers())
            return saved_bytes(self.losses, held)
        self.step()  # which leaves the optimizer's momentum behind
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.step()
        return torch.cuda.max_memory_allocated() - before


def _give_contiguous_levels(roi_head: nn.Module) -> None:
    """To RoIAlign, which in mmcv reads any memory as contiguous, without a word."""

    def contiguous(module: nn.Module, args: tuple) -> tuple:
        return tree_map_only(Tensor, Tensor.contiguous, args)

    for extractor in (roi_head.bbox_roi_extractor, roi_head.mask_roi_extractor):
        extractor.register_forward_pre_hook(contiguous)


def _keep_float32_between_parts(model: nn.Module) -> None:
    """Inside the parts autocast chooses; mmcv's NMS and RoIAlign do not know bfloat16."""

    def to_float32(module: nn.Module, args: object, output: object) -> object:
        return tree_map_only(Tensor, Tensor.float, output)

    heads = model.rpn_head, model.roi_head.bbox_head, model.roi_head.mask_head
    for part in (model.neck, *heads):
        part.register_forward_hook(to_float32)


def _model_config(name: str, quick: bool) -> ConfigDict:
    model = Config.fromfile(config_path(_NAME.format(_CONFIGS[name]))).model
    # From random weights, and with all of them trained: the same work for every norm.
    model.backbone.update(init_cfg=None, frozen_stages=-1, norm_eval=False)
    if name == MMCV:
        heads = model.roi_head.bbox_head, model.roi_head.mask_head
        for part in (model.backbone, model.neck, *heads):
            part.conv_cfg = dict(type="ConvWS")
    if quick:
        _shrink(model)
    return model


def _shrink(model: ConfigDict) -> None:
    """Few channels, few RoIs; 32 groups have a channel each."""
    head, narrow = model.roi_head, dict(in_channels=32, conv_out_channels=32)
    model.backbone.update(depth=18, base_channels=32)
    model.neck.update(in_channels=[32, 64, 128, 256], out_channels=32)
    model.rpn_head.update(in_channels=32, feat_channels=32)
    for extractor in (head.bbox_roi_extractor, head.mask_roi_extractor):
        extractor.out_channels = 32
    head.bbox_head.update(narrow, fc_out_channels=32)
    head.mask_head.update(narrow)
    model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=8)
    model.train_cfg.rcnn.sampler.num = 8
