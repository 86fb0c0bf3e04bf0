"""COCO as WS weights want to see it, and how everything else is trained: Detectron2's SGD."""

from detectron2 import model_zoo

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.mapper.image_format = "RGB"  # the test mapper follows it

optimizer = model_zoo.get_config("common/optim.py").SGD
train = model_zoo.get_config("common/train.py").train
