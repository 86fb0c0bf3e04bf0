"""Sets by folder and their faults. Oracles: the files' own content, and each fault by hand."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from tests import hostile_sets
from tests.detectron2.conftest import DEMO
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.data import NamedMapper, category_names, check_sets, register_set
from ws_det.detectron2.set_files import Wants
from ws_det.errors import InputError
from ws_det.paths import find_config


@pytest.fixture
def copied(coco_set, tmp_path):
    """A set that may be broken, registered as broken_train and broken_val."""
    root = tmp_path / "set"
    shutil.copytree(coco_set, root)
    register_set(str(root), "broken")
    return root


def edit(root, part, change):
    path = root / f"annotations/instances_{part}2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_folder_becomes_two_sets(coco_set):
    train, val = register_set(str(coco_set), "two")
    assert (train, val) == ("two_train", "two_val")
    dicts = DatasetCatalog.get(train)
    assert len(dicts) == 6 and len(DatasetCatalog.get(val)) == 4
    # ids 3 and 7 in the file
    assert {a["category_id"] for d in dicts for a in d["annotations"]} == {0, 1}
    assert category_names(train) == MetadataCatalog.get(train).thing_classes == ["box", "bar"]
    check_sets([train, val], [2])


def test_names_move_to_a_new_folder(coco_set, copied):
    register_set(str(coco_set), "moving")
    DatasetCatalog.get("moving_train")
    register_set(str(copied), "moving")
    assert DatasetCatalog.get("moving_val")[0]["file_name"].startswith(str(copied))


def test_classes_follow_the_ids_whatever_the_order_of_the_file(copied):
    """Detectron2 sorts by id. Oracle: the names it attaches itself when it loads the file."""
    edit(copied, "train", lambda content: content["categories"].reverse())
    DatasetCatalog.get("broken_train")
    assert category_names("broken_train") == MetadataCatalog.get("broken_train").thing_classes
    check_sets(["broken_train", "broken_val"], [2])


def test_one_of_two_sets_to_learn_from_may_have_no_annotations(copied):
    names = ("broken_train", "broken_val")
    for part in ("train", "val"):
        check_sets(names, [2], Wants(train_sets=names, masks=True, mask_format="polygon"))
        edit(copied, part, lambda content: content.pop("annotations"))
    with pytest.raises(InputError, match="have nothing to learn from"):
        check_sets(names, [2], Wants(train_sets=names))


def test_a_category_that_is_there_twice_is_one(copied):
    edit(copied, "train", lambda content: content["categories"].append(content["categories"][0]))
    assert category_names("broken_train") == ["box", "bar"]
    check_sets(["broken_train", "broken_val"], [2])
    assert set(load_recipe(DEMO, data_root=str(copied)).num_classes()) == {2}


def test_unknown_set_is_refused():
    with pytest.raises(InputError, match=r"no data set is registered as 'nowhere'.*--data-root"):
        check_sets(["nowhere"], [])


def test_other_number_of_classes_is_refused(copied):
    with pytest.raises(InputError, match=r"num_classes=80 .* the 2 categories .*--data-root"):
        check_sets(["broken_train"], [2, 80])


def test_other_categories_are_refused(copied):
    edit(copied, "val", lambda content: content["categories"][0].update(name="disc"))
    with pytest.raises(InputError, match=r"other categories \(disc, bar"):
        check_sets(["broken_train", "broken_val"], [2])


def test_missing_image_is_named(copied):
    (copied / "val2017/3.jpg").unlink()
    with pytest.raises(InputError, match=r"3\.jpg .* \(1 of 4 are missing\)"):
        check_sets(["broken_train", "broken_val"], [2])


def test_a_mapper_names_the_image(copied):
    def fail(dataset_dict):
        return dataset_dict["depth"]

    path = copied / "val2017/1.jpg"
    words = r"function fails on the image .*1\.jpg, which can be read \(KeyError: 'depth'\)"
    with pytest.raises(InputError, match=f"{words}: correct its dataset dict, or the mapper$"):
        NamedMapper(fail)({"file_name": str(path)})
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(InputError, match=r"1\.jpg cannot be read \(.*: replace it$"):
        NamedMapper(fail)({"file_name": str(path)})


RLE = {"size": [64, 96], "counts": "oooooooo"}  # a number that does not end


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda c: c["images"][1].update(file_name="../val2017/1.jpg"), "'../val2017/1.jpg'"),
        (lambda c: c["images"][1].update(file_name="/etc/hostname"), "'/etc/hostname'"),
        (lambda c: c["images"][1].update(file_name=None), "image None"),
        (lambda c: c["annotations"][1].update(segmentation=RLE), "annotation 2 .* not whole"),
        (lambda c: c["annotations"][1].update(segmentation=[[1e12] * 6]), "annotation 2 "),
        (lambda c: c.update(annotations=[[]]), "no list of annotations"),
    ],
)
def test_annotations_that_lead_outside(copied, fault, words):
    """Outside of the folder, or of the memory of the code that reads masks: before a start."""
    edit(copied, "train", fault)
    with pytest.raises(InputError, match=words):
        check_sets(["broken_train", "broken_val"], [2], Wants(masks=True))


@pytest.mark.parametrize("url", ["x/../../secret.jpg", "http://x/../1.jpg", 3])
def test_names_of_lvis(copied, url):
    """Oracle: Detectron2's own reader of LVIS takes the last two parts of an address."""
    edit(copied, "train", lambda content: content["images"][0].update(coco_url=url))
    MetadataCatalog.get("broken_train").evaluator_type = "coco"
    check_sets(["broken_train"], [2])
    MetadataCatalog.remove("broken_train")
    metadata = {"json_file": f"{copied}/annotations/instances_train2017.json"}
    metadata |= {"image_root": f"{copied}/", "evaluator_type": "lvis"}
    MetadataCatalog.get("broken_train").set(**metadata)
    with pytest.raises(InputError):
        check_sets(["broken_train"], [2])


def test_hostile_annotations(tmp_path, capsys):
    """Each is taken or ends in a sentence, before a start. See ``tests/hostile_sets.py``."""
    place, outcomes = hostile_sets.Place(tmp_path / "place"), Counter()
    for number in range(300):
        path = hostile_sets.write_truth(random.Random(f"detectron2 {number}"), place)
        name = f"hostile_{number}"
        register_coco_instances(name, {}, str(path), str(place.images))
        try:
            check_sets([name], [2])
            outcomes["taken"] += 1
        except InputError as error:
            assert str(error).isprintable()
            outcomes["one sentence"] += 1
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    with capsys.disabled():
        print(f"\nhostile annotations before a training with Detectron2: {dict(outcomes)}")
    assert min(outcomes.values()) > 30


def without_annotations(content):
    content["annotations"] = []


def only_crowds(content):
    for thing in content["annotations"]:
        thing.update(iscrowd=1)


def test_a_set_of_images_without_objects_beside_another(copied):
    """Detectron2 trains on them all together: one may be background, not both."""
    both = ["broken_train", "broken_val"]
    edit(copied, "val", without_annotations)
    check_sets(both, [2], Wants(train_sets=both))
    with pytest.raises(InputError, match=r"instances_val2017\.json has nothing to learn from"):
        check_sets(both, [2], Wants(train_sets=["broken_val"]))
    edit(copied, "train", only_crowds)
    with pytest.raises(InputError, match="broken_train, broken_val have nothing to learn from"):
        check_sets(both, [2], Wants(train_sets=both))


def test_a_test_whose_truth_is_not_published(copied):
    """COCO's test-dev has no list of annotations; an empty one is a fault."""
    edit(copied, "val", lambda content: content.pop("annotations"))
    wants = Wants(test_sets=["broken_val"], masks=True, keypoints=True, num_keypoints=17)
    assert check_sets(["broken_val"], [2], wants).notes == []
    edit(copied, "val", without_annotations)
    with pytest.raises(InputError, match="nothing to evaluate by"):
        check_sets(["broken_val"], [2], wants)


def test_a_model_with_masks_and_a_set_without(copied):
    """The sentence names a config that is supplied."""
    edit(copied, "train", lambda c: [thing.pop("segmentation") for thing in c["annotations"]])
    with pytest.raises(InputError, match="12 are without a mask") as refused:
        check_sets(["broken_train"], [2], Wants(train_sets=["broken_train"], masks=True))
    assert find_config(str(refused.value).split()[-1])
    check_sets(["broken_train"], [2], Wants(train_sets=["broken_train"]))


def test_run_lengths_for_a_loader_of_polygons(copied):
    """Both ways to say it, as Detectron2's own options. Crowds are left out by its mapper."""
    rle = {"size": [64, 96], "counts": [0, 64 * 96]}
    edit(copied, "train", lambda c: c["annotations"][0].update(segmentation=rle, iscrowd=1))
    wants = Wants(train_sets=["broken_train"], masks=True, mask_format="polygon")
    check_sets(["broken_train"], [2], wants)
    edit(copied, "train", lambda c: c["annotations"][1].update(segmentation=rle))
    with pytest.raises(InputError, match=r"annotation 2 .*mask_format=bitmask .*MASK_FORM"):
        check_sets(["broken_train"], [2], wants)
    check_sets(["broken_train"], [2], wants._replace(mask_format="bitmask"))
