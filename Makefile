# What a newcomer types. `make setup` is part of every other target and quick once it is done.
PYTHON ?= python3
VENV ?= .venv
NORM ?= GN-WS
DEMO ?= work_dirs/demo

BIN := $(VENV)/bin
# the demo's recipe with WS+GN, or with NORM=BN the same with plain BN
DEMO_NORM := $(patsubst gn-ws,gn-ws-all,$(shell echo $(NORM) | tr A-Z a-z))
DEMO_CONFIG := configs/mmdet/mask-rcnn_r18_fpn_$(DEMO_NORM)_2xb1-demo_shapes.py
DEMO_DIR := $(DEMO)/$(NORM)

.PHONY: help setup demo test lint

help:
	@echo "make setup  virtual environment in $(VENV) with everything (minutes: compiles operators)"
	@echo "make demo   train a small Mask R-CNN with WS+GN, evaluate it, draw pictures (NORM=BN: with BN)"
	@echo "make test   the whole test suite"
	@echo "make lint   ruff"
	@echo "PYTHON=$(PYTHON) VENV=$(VENV) can be set"

setup:
	@PYTHON="$(PYTHON)" tools/setup_env.sh "$(VENV)"

# One thread a process: two processes use two cores better than threads do.
demo: export OMP_NUM_THREADS = 1
demo: setup
	@test -f $(DEMO_CONFIG) || { echo "error: no demo config for NORM=$(NORM): use GN-WS or BN" >&2; exit 2; }
	$(BIN)/python tools/make_shapes_coco.py $(DEMO)/data
	$(BIN)/python -m torch.distributed.run --standalone --nproc_per_node 2 tools/train.py $(DEMO_CONFIG) \
		--launcher pytorch --data-root $(DEMO)/data --work-dir $(DEMO_DIR)
	$(BIN)/python tools/test.py $(DEMO_CONFIG) "$$(cat $(DEMO_DIR)/last_checkpoint)" \
		--data-root $(DEMO)/data --work-dir $(DEMO_DIR)/test --show-dir $(DEMO_DIR)/pictures

test: setup
	$(BIN)/python -m pytest -ra

lint: setup
	$(BIN)/python -m ruff check .
