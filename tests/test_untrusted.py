"""docs/untrusted.md, a test for each row of its table, by the row's name.

Oracles: a folder that code in a file would make, Python's audit events, and a parser of HTML.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import hostile_sets as hostile
from tests.watched import watched
from ws_det.checkpoint import load_checkpoint
from ws_det.errors import InputError

REPO = Path(__file__).resolve().parents[1]
TABLE = re.compile(r"^\| ([^|]+) \| (yes|no) \| ([^|]+) \|$", re.MULTILINE)
ROWS = TABLE.findall((REPO / "docs/untrusted.md").read_text())


def test_every_row_has_a_test() -> None:
    names = {f"test_{row.lower().replace(' ', '_')}" for row, _, _ in ROWS}
    assert len(ROWS) == len(names) > 10
    assert not names - set(globals())


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder that is not there, for code to make."""
    return tmp_path / "made"


@pytest.fixture
def place(tmp_path: Path) -> hostile.Place:
    """Annotations of three images, in a folder beside canaries."""
    pytest.importorskip("PIL")
    pytest.importorskip("pycocotools")
    pytest.importorskip("matplotlib")
    place = hostile.Place(tmp_path / "place")
    for name, content in zip(("truth", "found"), hostile.good()):
        (place.given / f"{name}.json").write_text(json.dumps(content))
    return place


def evaluate(place: hostile.Place, found: str = "found.json") -> str:
    """Evaluate with the tool; the page."""
    from tools import evaluate as tool

    page, images = place.out / "page.html", str(place.images)
    files = [str(place.given / found), str(place.given / "truth.json")]
    options = ["--backend", "pycocotools", "--html", str(page), "--images", images]
    tool.main([*files, *options, "--classwise"])
    return page.read_text("utf-8")


def change(place: hostile.Place, edit: Callable[[dict[str, Any]], Any]) -> None:
    truth = hostile.good()[0]
    edit(truth)
    (place.given / "truth.json").write_text(json.dumps(truth))


def refused(use: Callable[[], Any], *folders: Path) -> str:
    """The sentence that something ends in, without having done anything."""
    with watched(*folders) as seen, pytest.raises(InputError) as error:
        use()
    assert not [line for line in seen if not line.startswith("compile")]  # but not run
    return str(error.value)


def test_weights(made: Path, tmp_path: Path) -> None:
    code = {"state_dict": {"conv.weight": hostile.Reduced(os.mkdir, str(made))}}
    torch.save(code, tmp_path / "a.pth")
    torch.save(code, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(code))
    np.savez(tmp_path / "d.npz", a=np.array([code], object))
    (tmp_path / "e.pth").write_bytes(pickle.dumps(code))
    for path in sorted(tmp_path.glob("*.*")):
        assert str(path) in refused(lambda path=path: load_checkpoint(path), tmp_path)
    assert not made.exists()


def test_checkpoints_to_resume(made: Path) -> None:
    """A run takes values for what it has; tests/*/test_resume_fuzz.py trains with such files."""
    from ws_det.intake import Intake

    code = f"__import__('os').mkdir({str(made)!r})"
    own = {"iter": 3, "lr": 0.1, "state": torch.zeros(2), "name": "SGD", "on": True}
    for name in ("iter", "lr", "state", "name"):
        for value in (code, str(made), [code], {"a": code}, float("nan"), 10**400):
            given = {**own, name: value}
            said = refused(lambda given=given: Intake("c.pth").like(given, own, "optimizer"))
            assert f"optimizer.{name}" in said
    intake = Intake("c.pth")
    taken = intake.like({**own, "meta": {"config": code}, "on": code}, own, "optimizer")
    assert taken.pop("state").equal(own.pop("state")) and taken == own
    assert len(intake.left) == 2 and not made.exists()


def test_predictions(place: hostile.Place) -> None:
    evaluate(place)
    (place.out / "page.html").unlink()
    code = hostile.Reduced(os.mkdir, str(place.made))
    content = hostile.saved_by_mmdet(hostile.good()[1])
    content[0]["pred_instances"]["masks"][0] = code
    (place.given / "a.pkl").write_bytes(pickle.dumps(content))
    torch.save([{"image_id": 1, "instances": [code]}], place.given / "b.pth")
    for name in ("a.pkl", "b.pth"):
        said = refused(lambda name=name: evaluate(place, name), place.given, place.out)
        assert name in said and not place.made.exists() and not list(place.out.iterdir())


def test_a_function_in_predictions_keeps_its_state(place: hostile.Place) -> None:
    """BUILD of the function that makes tensors, which would stay changed for the whole process."""
    raw = b"ctorch._utils\n_rebuild_tensor_v2\nN}S'__kwdefaults__'\n}S'a'\nI1\nss\x86b."
    (place.given / "a.pkl").write_bytes(raw)
    before = torch._utils._rebuild_tensor_v2.__kwdefaults__
    assert "sets the state" in refused(lambda: evaluate(place, "a.pkl"), place.given, place.out)
    assert torch._utils._rebuild_tensor_v2.__kwdefaults__ is before


def test_annotations(place: hostile.Place) -> None:
    evaluate(place)
    secret = place.canary / "secret.png"
    for name in ("../../canary/secret.png", str(secret), 3):
        change(place, lambda truth, name=name: truth["images"][0].update(file_name=name))
        assert repr(name) in refused(lambda: evaluate(place), place.given, place.out)
    mask = {"size": [hostile.HEIGHT, hostile.WIDTH], "counts": "oooooooo"}
    change(place, lambda truth: truth["annotations"][0].update(segmentation=mask))
    assert "annotation 1" in refused(lambda: evaluate(place), place.given, place.out)
    url = "http://127.0.0.1:9/a.png"
    change(place, lambda truth: truth["images"][0].update(coco_url=url, flickr_url=url))
    with watched(place.given, place.out) as seen:
        evaluate(place)
    assert not seen


def test_images(place: hostile.Place) -> None:
    evaluate(place)
    (place.images / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name in ("pipe.png", "bomb.png", "eps.png"):
        change(place, lambda truth, name=name: truth["images"][0].update(file_name=name))
        assert name in refused(lambda: evaluate(place), place.given, place.out)


class Tags(HTMLParser):
    """The tags of a page and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]


def test_pages_and_pictures(place: hostile.Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Names that are code of a page, of a terminal and of a formula, in a class and in a file."""
    plain = Tags(evaluate(place))
    evil = '</script><img src=x onerror="alert(1)">\u2028\x1b[2J$\\frac$\ud800'
    folder = place.images / "a<"
    (folder / "script><img src=x onerror=alert(1)>").mkdir(parents=True)
    name = "a</script><img src=x onerror=alert(1)>/$x^{$.png"
    (place.images / name).write_bytes((place.images / "a.png").read_bytes())

    def edit(truth: dict[str, Any]) -> None:
        truth["categories"][0]["name"] = evil
        truth["images"][0]["file_name"] = name

    change(place, edit)
    capsys.readouterr()
    page = evaluate(place)
    shown = Tags(page)
    assert (shown.tags, shown.attributes) == (plain.tags, plain.attributes)
    assert "default-src 'none'" in page and "innerHTML" not in page and "eval(" not in page
    (data,) = re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert data.isascii() and json.loads(data)["truth"]["classes"][1]["name"] == evil
    assert all(c.isprintable() or c == "\n" for c in capsys.readouterr().out)

    from ws_det.pictures import Drawn, Pair, draw_grid

    image = np.zeros((20, 30, 3), np.uint8)
    thing = Drawn(0, np.array([1, 2, 9, 9]))
    draw_grid([Pair(name + evil, image, [thing], [thing])], [evil], place.out / "grid.png")
    assert (place.out / "grid.png").stat().st_size > 1000


def test_idx_files_of_a_study(tmp_path: Path) -> None:
    from ws_det.study.images import read_idx

    code = pickle.dumps(hostile.Reduced(os.mkdir, str(tmp_path / "made")))
    large = struct.pack(">IIII", 0x00000803, 2**31, 2**31, 2**31)
    for content in (code, large, large[:9], b"", b"\0\0\x08"):
        (tmp_path / "a").write_bytes(content)
        assert "IDX" in refused(lambda: read_idx(tmp_path / "a"), tmp_path)


def python_config(folder: Path, made: Path) -> Path:
    path = folder / "config.py"
    path.write_text(f"import os\nos.mkdir({str(made)!r})\nmodel = dict()\n")
    return path


def test_configs_in_python(made: Path, tmp_path: Path) -> None:
    """They are run when they are read, and not when their framework is told; each tool says so."""
    from ws_det.paths import framework_of

    path = python_config(tmp_path, made)
    framework_of(str(path))
    assert not made.exists()
    for name in filter(find_spec, ("mmdet", "detectron2")):
        load = _loader(name)
        with pytest.raises(InputError, match="no "):
            load(str(path))
        assert made.exists()
        made.rmdir()
    takes_one = re.compile(r'add_argument\(\s*"(--)?config')
    tools = [path for path in REPO.glob("tools/*.py") if takes_one.search(path.read_text())]
    assert len(tools) == 6
    for tool in tools:
        shown = subprocess.run([sys.executable, tool, "--help"], capture_output=True, text=True)
        assert "a config is a program: run only" in " ".join(shown.stdout.split())


def _loader(name: str) -> Callable[[str], Any]:
    if name == "mmdet":
        from ws_det.mmdet.config import load_config

        return load_config
    from ws_det.detectron2.config import load_recipe

    return load_recipe


def test_configs_in_yaml_or_json(made: Path, tmp_path: Path) -> None:
    """Tags run nothing, see tests/*/test_safe_config.py; what they name is called."""
    (tmp_path / "a.yaml").write_text(f"model: !!python/object/apply:os.mkdir ['{made}']\n")
    for name in filter(find_spec, ("mmdet", "detectron2")):
        load = _loader(name)  # imports the framework
        said = refused(lambda load=load: load(str(tmp_path / "a.yaml")), tmp_path)
        assert "a.yaml, line 1" in said and not made.exists()
    if find_spec("detectron2"):
        from detectron2.config import instantiate

        instantiate({"_target_": "os.mkdir", "path": str(made)})
        assert made.exists()


def test_options_on_the_command_line(made: Path) -> None:
    code = f"__import__('os').mkdir({str(made)!r})"
    if find_spec("mmdet"):
        from ws_det.mmdet.options import parse_options

        assert parse_options([f"model.x={code}"]) == {"model.x": code}
    if find_spec("detectron2"):
        from ws_det.detectron2.config import load_recipe

        yaml = "mask_rcnn_R_50_FPN_3x_gn_ws.yaml"
        assert load_recipe(yaml, ["OUTPUT_DIR", code]).output_dir == code
        lazy = "mask_rcnn_R_18_FPN_gn_ws_demo_shapes"
        for option in (code, "${oc.env:HOME}", "!!python/name:os.system"):
            try:
                load_recipe(lazy, [f"train.output_dir={option}"])
            except InputError:
                continue
    assert not made.exists()


def test_custom_hooks_and_modules(made: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A module that a config imports is run."""
    pytest.importorskip("mmdet", reason="custom_imports are of MMEngine")
    (tmp_path / "a_hook_of_mine.py").write_text(f"import os\nos.mkdir({str(made)!r})\n")
    (tmp_path / "a.json").write_text(json.dumps({"custom_imports": {"imports": "a_hook_of_mine"}}))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="no model"):
        _loader("mmdet")(str(tmp_path / "a.json"))
    assert made.exists()


def test_pickled_annotations_and_proposals(made: Path, tmp_path: Path) -> None:
    """MMEngine unpickles them, which runs what is in them."""
    mmengine = pytest.importorskip("mmengine")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(hostile.Reduced(os.mkdir, str(made))))
    mmengine.load(tmp_path / "a.pkl")
    assert made.exists()


UNSAFE = {
    *("eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.unsafe_load"),
    *("yaml.full_load", "cloudpickle.load", "joblib.load", "marshal.loads", "shelve.open"),
    *("mmengine.load", "fileio.load", "runpy.run_path", "torch.hub.load", "torch.package"),
}


def test_a_work_dir() -> None:
    """Nothing in ws_det or in the tools unpickles or runs a file but through the readers above."""
    calls = []
    for path in (*REPO.glob("ws_det/**/*.py"), *REPO.glob("tools/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                given = {key.arg: ast.unparse(key.value) for key in node.keywords}
                calls.append((path.name, ast.unparse(node.func), given))
    assert not [call for call in calls if call[1] in UNSAFE]
    assert not [c for c in calls if c[2].get("allow_pickle") == "True" or "allow_unsafe" in c[2]]
    loads = [given for _, name, given in calls if name == "torch.load"]
    assert len(loads) > 1 and all(given["weights_only"] == "True" for given in loads)
    assert len([call for call in calls if call[1] == "np.load"]) == 1
