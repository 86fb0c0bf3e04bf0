# What a newcomer types. `make setup` is part of every other target and quick once it is done.
PYTHON ?= python3
VENV ?= .venv
VENV_DETECTRON2 ?= .venv-detectron2
DETECTRON2 ?= git+https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833
NORM ?= GN-WS
DEMO ?= work_dirs/demo

BIN := $(VENV)/bin
BIN_DETECTRON2 := $(VENV_DETECTRON2)/bin
# the demo's recipe with WS+GN, or with NORM=BN the same with plain BN
DEMO_NORM := $(shell echo $(NORM) | tr A-Z a-z)
DEMO_CONFIG := configs/mmdet/mask-rcnn_r18_fpn_$(DEMO_NORM:gn-ws=gn-ws-all)_2xb1-demo_shapes.py
DEMO_DIR := $(DEMO)/$(NORM)
DEMO_CONFIG_DETECTRON2 := configs/detectron2/mask_rcnn_R_18_FPN_$(DEMO_NORM:gn-ws=gn_ws)_demo_shapes.py
DEMO_DIR_DETECTRON2 := $(DEMO)/detectron2-$(NORM)
# the folder, if DETECTRON2 is one: its own tests then run with the WS layers put in
CHECKOUT := $(if $(wildcard $(DETECTRON2)/setup.py),$(abspath $(DETECTRON2)))

.PHONY: help setup setup-detectron2 demo demo-detectron2 test test-detectron2 sweep bench lint

help:
	@echo "make setup  virtual environment in $(VENV) with everything (minutes: compiles operators)"
	@echo "make demo   train a small Mask R-CNN with WS+GN, evaluate it, draw pictures (NORM=BN: with BN)"
	@echo "make test   the whole test suite, without the sweeps"
	@echo "make sweep  tests of hundreds or thousands of cases drawn from a seed (tens of minutes)"
	@echo "make bench  what WS and BCN cost beside every other implementation"
	@echo "make lint   ruff"
	@echo "make demo-detectron2, make test-detectron2  the same with Detectron2, in $(VENV_DETECTRON2)"
	@echo "PYTHON=$(PYTHON) VENV=$(VENV) VENV_DETECTRON2=$(VENV_DETECTRON2) can be set, and"
	@echo "DETECTRON2=<checkout or git URL>, now $(DETECTRON2)"

setup:
	@PYTHON="$(PYTHON)" tools/setup_env.sh "$(VENV)"

setup-detectron2:
	@PYTHON="$(PYTHON)" tools/setup_env.sh "$(VENV_DETECTRON2)" "$(DETECTRON2)"

# One thread a process: two processes use two cores better than threads do.
demo demo-detectron2: export OMP_NUM_THREADS = 1
demo: setup
	@test -f $(DEMO_CONFIG) || { echo "error: no demo config for NORM=$(NORM): use GN-WS or BN" >&2; exit 2; }
	$(BIN)/python tools/make_shapes_coco.py $(DEMO)/data
	$(BIN)/python -m torch.distributed.run --standalone --nproc_per_node 2 tools/train.py $(DEMO_CONFIG) \
		--launcher pytorch --data-root $(DEMO)/data --work-dir $(DEMO_DIR)
	$(BIN)/python tools/test.py $(DEMO_CONFIG) "$$(cat $(DEMO_DIR)/last_checkpoint)" \
		--data-root $(DEMO)/data --work-dir $(DEMO_DIR)/test --show-dir $(DEMO_DIR)/pictures

demo-detectron2: setup-detectron2
	@test -f $(DEMO_CONFIG_DETECTRON2) || { echo "error: no demo config for NORM=$(NORM): use GN-WS or BN" >&2; exit 2; }
	$(BIN_DETECTRON2)/python tools/make_shapes_coco.py $(DEMO)/data
	$(BIN_DETECTRON2)/python tools/train_detectron2.py --config-file $(DEMO_CONFIG_DETECTRON2) \
		--num-gpus 2 --data-root $(DEMO)/data train.output_dir=$(DEMO_DIR_DETECTRON2)
	$(BIN_DETECTRON2)/python tools/train_detectron2.py --config-file $(DEMO_CONFIG_DETECTRON2) \
		--eval-only --data-root $(DEMO)/data --show-dir $(DEMO_DIR_DETECTRON2)/pictures \
		train.init_checkpoint=$(DEMO_DIR_DETECTRON2)/model_final.pth \
		train.output_dir=$(DEMO_DIR_DETECTRON2)/test

test: setup
	$(BIN)/python -m pytest -ra

test-detectron2: setup-detectron2
	WS_DET_DETECTRON2="$(CHECKOUT)" $(BIN_DETECTRON2)/python -m pytest -ra tests/detectron2

sweep: setup
	$(BIN)/python -m pytest -m sweep -s -ra

bench: setup
	for what in ws bcn step head inference eval; do $(BIN)/python tools/benchmark.py $$what || exit; done

lint: setup
	$(BIN)/python -m ruff check .
