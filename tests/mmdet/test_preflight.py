"""Bad input: one sentence with the value and the way out, exit code 2, and nothing written.

Oracle: the sentence itself, and the work dir, which must not exist afterwards.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS

from tests.conftest import run
from tools import test, train
from ws_det import fit, fold_ws
from ws_det.checkpoint import state_dict_of
from ws_det.errors import InputError
from ws_det.mmdet import preflight
from ws_det.mmdet.config import load_config
from ws_det.mmdet.weights import load_safely

Refusal = Callable[..., str]


@pytest.fixture
def bad_set(coco_set: Path, tmp_path: Path) -> Path:
    """A copy of the set, to be damaged."""
    return Path(shutil.copytree(coco_set, tmp_path / "set"))


@pytest.fixture
def refuse(refusal: Refusal, tiny_config: Path, tmp_path: Path) -> Refusal:
    """Refused training with a config, else the tiny one, and no work dir made."""

    def refuse(*args: object, config: object = tiny_config) -> str:
        work_dir = tmp_path / "work"
        sentence = refusal(train, config, "--work-dir", work_dir, *args)
        assert not work_dir.exists()
        return sentence

    return refuse


def test_missing_config(refuse: Refusal) -> None:
    assert "/nowhere/c.py" in refuse(config="/nowhere/c.py")


def test_unknown_name(refuse: Refusal) -> None:
    sentence = refuse(config="mask-rcnn_r50_fpn_gn-ws-al_2x_coco")
    assert "did you mean mask-rcnn_r50_fpn_gn-ws-all_2x_coco" in sentence


@pytest.mark.parametrize("text", ["model = dict(", "_base_ = 'gone.py'", "model = 1 / 0", "\0"])
def test_broken_config(refuse: Refusal, tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.py").write_text(text)
    assert "broken.py cannot be read" in refuse(config=tmp_path / "broken.py")


def test_config_of_no_detector(refuse: Refusal, tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text("lr = 1")
    assert "has no model" in refuse(config=tmp_path / "part.py")


def test_model_that_cannot_be_built(refuse: Refusal, coco_set: Path) -> None:
    options = ["--cfg-options", "model.backbone.type=ResNot"]
    assert "ResNot" in refuse("--data-root", coco_set, *options)


def test_missing_data_root(refuse: Refusal) -> None:
    assert "/nowhere/coco" in refuse("--data-root", "/nowhere/coco")
    assert "data/coco/" in refuse()  # mmdet's default


def test_missing_annotations(refuse: Refusal, bad_set: Path) -> None:
    path = bad_set / "annotations/instances_val2017.json"
    path.unlink()
    assert str(path) in refuse("--data-root", bad_set)


def test_truncated_annotations(refuse: Refusal, bad_set: Path) -> None:
    path = bad_set / "annotations/instances_train2017.json"
    path.write_bytes(path.read_bytes()[:-100])
    sentence = refuse("--data-root", bad_set)
    assert str(path) in sentence and "truncated" in sentence


@pytest.mark.parametrize("key", ["images", "categories"])
def test_annotations_without(refuse: Refusal, bad_set: Path, key: str) -> None:
    path = bad_set / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    for value in ([], None, [{"id": 1}]):
        path.write_text(json.dumps(content | {key: value}))
        sentence = refuse("--data-root", bad_set)
        assert str(path) in sentence and key in sentence
    path.write_text("[]")
    assert str(path) in refuse("--data-root", bad_set)


def test_missing_image(refuse: Refusal, bad_set: Path) -> None:
    image = bad_set / "val2017/2.jpg"
    image.unlink()
    sentence = refuse("--data-root", bad_set)
    assert str(image) in sentence and "1 of 4" in sentence


def test_corrupt_image(tiny_config: Path, bad_set: Path, tmp_path: Path) -> None:
    """Found only when it is loaded, in a worker: named in a sentence, not in a traceback."""
    image = bad_set / "train2017/4.jpg"
    image.write_bytes(image.read_bytes()[:-400])
    done = run(
        "train",
        tiny_config,
        "--data-root",
        bad_set,
        "--work-dir",
        tmp_path / "work",
        "--cfg-options",
        "train_dataloader.num_workers=1",
    )
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].startswith(f"error: the image {image} cannot be read")
    assert "Traceback" not in done.stdout


def test_categories_the_set_does_not_have(refuse: Refusal, coco_set: Path) -> None:
    options = [f"{part}_dataloader.dataset.data_root={coco_set}" for part in ("train", "val")]
    sentence = refuse("--cfg-options", *options)
    assert "80 categories" in sentence and "person" in sentence and "--data-root" in sentence


def test_classes_and_heads_disagree(
    refuse: Refusal, tmp_path: Path, tiny_config: Path, coco_set: Path
) -> None:
    config = tmp_path / "own.py"
    config.write_text(
        f"_base_ = {str(tiny_config)!r}\nown = dict(dataset=dict(data_root={str(coco_set)!r}, "
        "metainfo=dict(classes=('box', 'bar'))))\ntrain_dataloader = own\nval_dataloader = own"
    )
    assert "num_classes=80" in refuse(config=config)


def test_categories_in_another_order(refuse: Refusal, bad_set: Path) -> None:
    """mmdet takes labels from the order in each file: AP would be near zero without a word."""
    path = bad_set / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"categories": content["categories"][::-1]}))
    assert "order" in refuse("--data-root", bad_set)


@pytest.mark.parametrize("below", ["", "below/it"])
def test_work_dir_not_writable(
    refusal: Refusal, tiny_config: Path, coco_set: Path, tmp_path: Path, below: str
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    sentence = refusal(train, tiny_config, "--data-root", coco_set, "--work-dir", file / below)
    assert str(file) in sentence and file.read_text() == "kept"


def test_amp_without_gpu(refuse: Refusal, coco_set: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without GPU")
    assert "--amp" in refuse("--data-root", coco_set, "--amp")


def test_auto_scale_lr_without_base(
    refuse: Refusal, tmp_path: Path, tiny_config: Path, coco_set: Path
) -> None:
    config = tmp_path / "no_base.py"
    config.write_text(
        f"_base_ = {str(tiny_config)!r}\nauto_scale_lr = dict(_delete_=True, enable=False)"
    )
    assert "base_batch_size" in refuse("--data-root", coco_set, "--auto-scale-lr", config=config)


def test_out_and_show_dir_not_writable(
    refusal: Refusal, tiny_config: Path, coco_set: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for flag, path in (("--out", file / "found.pkl"), ("--show-dir", file)):
        work_dir = tmp_path / "work"
        options = ["--data-root", coco_set, "--work-dir", work_dir, flag, path]
        assert str(file) in refusal(test, tiny_config, "c.pth", *options)
        assert not work_dir.exists() and file.read_text() == "kept"


def test_out_that_is_no_pickle(refusal: Refusal, tiny_config: Path) -> None:
    assert "found.txt" in refusal(test, tiny_config, "c.pth", "--out", "found.txt")


class Damage:
    """Ways to damage a checkpoint, and the word that must be in the sentence."""

    @staticmethod
    def missing(path: Path) -> str:
        path.unlink()
        return "no checkpoint at"

    @staticmethod
    def truncated(path: Path) -> str:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return "truncated"

    @staticmethod
    def code(path: Path) -> str:
        class Runs:
            def __reduce__(self) -> tuple:
                return os.mkdir, (str(path.parent / "ran"),)

        torch.save({"state_dict": load_safely(str(path))["state_dict"], "meta": Runs()}, path)
        return "mkdir"

    @staticmethod
    def other_model(path: Path) -> str:
        checkpoint = load_safely(str(path))
        state = checkpoint["state_dict"]
        state["neck.extra"] = state.pop("neck.lateral_convs.0.conv.weight")
        state["roi_head.bbox_head.fc_cls.weight"] = torch.zeros(81, 16)
        torch.save(checkpoint, path)
        return (
            "(1 missing, as neck.lateral_convs.0.conv.weight, 1 unexpected, as neck.extra, "
            "1 of another shape, as roi_head.bbox_head.fc_cls.weight)"
        )


@pytest.mark.parametrize("damage", ["missing", "truncated", "code", "other_model"])
@pytest.mark.parametrize("tool", ["test", "resume"])
def test_bad_checkpoint(
    refuse: Refusal,
    refusal: Refusal,
    tiny_config: Path,
    coco_set: Path,
    tmp_path: Path,
    trained: tuple[Path, str],
    damage: str,
    tool: str,
) -> None:
    """Neither tool loads it, and its code does not run."""
    path = Path(shutil.copy(trained[0] / "epoch_1.pth", tmp_path / "c.pth"))
    words = getattr(Damage, damage)(path)
    work_dir = tmp_path / "work"
    if tool == "resume":
        sentence = refuse("--data-root", coco_set, "--resume", path)
    else:
        options = ["--data-root", coco_set, "--work-dir", work_dir]
        sentence = refusal(test, tiny_config, path, *options)
    assert not work_dir.exists()
    assert str(path) in sentence and words in sentence
    assert not (tmp_path / "ran").exists()


def test_load_from_another_network(refuse: Refusal, coco_set: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"backbone.stem.weight": torch.zeros(3)}, path)
    sentence = refuse("--data-root", coco_set, "--cfg-options", f"load_from={path}")
    assert str(path) in sentence and "0% of MaskRCNN" in sentence


@pytest.mark.parametrize(("norm", "words"), [("BN", "BN weights"), ("GN", "GN without WS")])
def test_backbone_of_another_norm_family(
    refuse: Refusal, tiny_config: Path, coco_set: Path, tmp_path: Path, norm: str, words: str
) -> None:
    """The users' first trap: weights of a plain backbone for one with WS."""
    cfg = load_config(str(tiny_config)).model.backbone
    cfg.pop("conv_cfg")
    cfg.norm_cfg = dict(type="BN") if norm == "BN" else dict(type="GN", num_groups=8)
    plain = MODELS.build(cfg)
    for kernel in plain.parameters():
        if kernel.ndim == 4:
            kernel.data += 0.3  # trained means, which WS would have left where they started
    path = tmp_path / "plain.pth"
    torch.save(plain.state_dict(), path)
    init = tmp_path / "init.py"
    init.write_text(
        f"_base_ = {str(tiny_config)!r}\n"
        "model = dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', "
        f"checkpoint={str(path)!r})))"
    )
    sentence = refuse("--data-root", coco_set, config=init)
    assert str(path) in sentence and words in sentence


def test_ws_weights_for_a_plain_backbone(
    refuse: Refusal,
    tiny_config: Path,
    coco_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The other way round. With --force it is a warning, and the next fault is what stops it."""
    cfg = load_config(str(tiny_config)).model.backbone
    state = MODELS.build(cfg).state_dict()
    for key, kernel in state.items():
        if kernel.ndim == 4:  # trained, as all filters share a pattern, and without means
            filters = kernel.flatten(1)
            filters += filters.std() * torch.randn(len(filters), 1) * torch.randn(1, len(filters.T))
            filters -= filters.mean(1, keepdim=True)
            state[key] = filters.reshape(kernel.shape)
    torch.save(state, tmp_path / "ws.pth")
    config = tmp_path / "plain.py"
    config.write_text(
        f"_base_ = {str(tiny_config)!r}\n"
        "model = dict(backbone=dict(conv_cfg=None, init_cfg=dict(_delete_=True, type='Pretrained', "
        f"checkpoint={str(tmp_path / 'ws.pth')!r})))"
    )
    sentence = refuse("--data-root", coco_set, config=config)
    assert "ws.pth are raw kernels of WS" in sentence and sentence.endswith("go on with --force")
    options = ["--force", "--cfg-options", "load_from=/nowhere/c.pth"]
    with pytest.raises(InputError, match=r"no checkpoint at /nowhere/c\.pth"):
        train.main([str(config), "--data-root", str(coco_set), *options])
    assert "warning: the backbone weights in" in capsys.readouterr().err


@pytest.fixture
def backbone(tiny_config: Path) -> torch.nn.Module:
    """The tiny config's backbone, GN+WS."""
    return MODELS.build(load_config(str(tiny_config)).model.backbone)


def test_weights_of_the_same_backbone(backbone: torch.nn.Module, tmp_path: Path) -> None:
    """Plain, below ``state_dict``, with a prefix, from inside DDP: oracle is that none raises."""
    state = backbone.state_dict()
    path = tmp_path / "w.pth"
    for saved, prefix in (
        (state, None),
        ({"state_dict": state}, None),
        ({f"module.{k}": v for k, v in state.items()}, None),
        ({f"backbone.{k}": v for k, v in state.items()}, "backbone"),
        ({**state, "fc.weight": torch.zeros(9, 9)}, None),  # the classifier of the pretraining
    ):
        torch.save(saved, path)
        preflight.check_init(backbone, dict(checkpoint=str(path), prefix=prefix))


def test_weights_of_another_depth(backbone: torch.nn.Module, tmp_path: Path) -> None:
    """Half of the layers are missing."""
    state = {k: v for k, v in backbone.state_dict().items() if not k.startswith("layer4")}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"another model, \d\d% of ResNet .* layer4\.0\.conv1"):
        preflight.check_init(backbone, dict(checkpoint=str(tmp_path / "w.pth")))


def test_folded_weights(backbone: torch.nn.Module, tmp_path: Path) -> None:
    """A mark in the metadata tells, alone and inside a detector."""
    folded = fold_ws(copy.deepcopy(backbone))
    for module, prefix in ((folded, None), (torch.nn.ModuleDict({"backbone": folded}), "backbone")):
        torch.save(module.state_dict(), tmp_path / "w.pth")
        with pytest.raises(InputError, match=r"folded from WS.*open-mmlab://jhu/"):
            preflight.check_init(backbone, dict(checkpoint=str(tmp_path / "w.pth"), prefix=prefix))


def test_start_from_a_detector_with_other_classes(
    tiny_config: Path, trained: tuple[Path, str]
) -> None:
    """80 classes from a checkpoint with 2: the heads differ, and that is what fine-tuning is."""
    model = MODELS.build(load_config(str(tiny_config)).model)
    path = str(trained[0] / "epoch_1.pth")
    state = state_dict_of(load_safely(path))
    fit.check_start(model, state, path, "")
    with pytest.raises(InputError, match=r"of another shape, as roi_head\.bbox_head\.fc_cls"):
        fit.check_whole(model, state, path, "")


def test_weights_that_cannot_be_downloaded(
    refuse: Refusal, coco_set: Path, tmp_path: Path, tiny_config: Path
) -> None:
    """Oracle: a port of this machine where nobody listens."""
    url = "http://127.0.0.1:9/no_such_weights.pth"
    config = tmp_path / "url.py"
    config.write_text(
        f"_base_ = {str(tiny_config)!r}\n"
        "model = dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', "
        f"checkpoint={url!r})))"
    )
    sentence = refuse("--data-root", coco_set, config=config)
    assert url in sentence and "model.backbone.init_cfg.checkpoint=FILE" in sentence


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("modle.backbone.depth=18", "did you mean 'model'"),
        ("model.backbone.depht=18", "did you mean 'depth'"),
        ("model.backbone.nonsense=18", "'model.backbone' has no 'nonsense'"),
        ("model.bakbone.depth=18", "did you mean 'backbone'"),
        ("train_dataloader.batchsize=2", "did you mean 'batch_size'"),
        ("train_cfg.max_epoch=2", "did you mean 'max_epochs'"),
        ("train_dataloader.dataset.pipeline.9.scale=2", "has no '9'"),
        ("model.backbone.depth.more=2", "'model.backbone.depth' has no 'more'"),
        ("max_epochs", "write key.path=value"),
        ("model.anchors=[1,2", "write key.path=value"),
    ],
)
def test_unknown_option(refuse: Refusal, option: str, words: str) -> None:
    sentence = refuse("--cfg-options", option)
    assert option.split("=")[0] in sentence and words in sentence
