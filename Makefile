# Every target makes .venv by itself. Variables a user gives reach the Python verbs as flags; see README.md.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
DEMO   := artifacts/demo$(patsubst %,-%,$(filter-out binary,$(TASK)))

# variables that are flags of the same name
INPUTS := DATA MEDIA BACKBONE INPUT_SIZE OUT CACHE TASK POSITIVE
PASS   := ENGINE PRECISION SHARD CLUSTER
TRAIN  := THRESHOLD PRIOR CALIBRATE
# only what was given: what was not is remembered from `make features`, else the demo is meant
flags  = $(foreach name,$(1),$(if $($(name)),--$(shell echo $(name) | tr A-Z_ a-z-) "$($(name))"))
# how heads are trained
HOW    := $(if $(NEAR),$(if $(filter-out 0,$(NEAR)),--group-near,--no-group-near)) \
          $(if $(filter-out 0,$(SWEEP)),--sweep "$(SWEEP)")

RUNTIME := $(VENV)/.$(if $(filter-out 0,$(GPU)),gpu,cpu)-installed
RAY     := $(VENV)/.cluster-installed
REVIEW  := $(VENV)/.review-installed
SHIPPED := $(VENV)/.formats-installed
LITE    := $(if $(filter %-lite1 %-lite2,$(BACKBONE)),$(VENV)/.lite-installed)
DEV     := $(VENV)/.dev-installed

.DEFAULT_GOAL := help
.PHONY: help demo features head compare export predict review labels pictures bench torture test lint

help:
	@echo "make demo      set up, then the whole line on handwritten digits: features, compare, export, predict;"
	@echo "               TASK=multiclass: the ten digits instead of odd against even"
	@echo "make features  one pass of the frozen backbone over every new image of DATA -> OUT/features.h5"
	@echo "make head      train heads on the cached features (HEAD=name, default sigmoid and logistic)"
	@echo "make compare   every head side by side on the same rows"
	@echo "make export    backbone and head as one saved model, after parity (HEAD=name)"
	@echo "make predict   probabilities for INPUT=file, folder or table (HEAD=name, or MODEL=an export alone)"
	@echo "make review    look at labels in the browser, the most suspicious first, and mend them"
	@echo "make labels    write the table with the labels that review gave -> OUT/labels.csv"
	@echo "make pictures  the README's pictures anew, from the demo; needs Chromium"
	@echo "make bench     the speed and coverage claims of the README, measured here"
	@echo "make torture   kills, full disks, damage and mutated images, counted; an hour or more"
	@echo "make test      the tests          make lint   ruff and mypy"
	@echo
	@echo "Variables: $(INPUTS) HEAD $(TRAIN) SWEEP NEAR FORMATS INPUT MODEL,"
	@echo "           $(PASS) GPU=1, PYTHON, ARGS='further flags'"

features: $(RUNTIME) $(LITE) $(if $(CLUSTER),$(RAY))
	$(PY) -m extract features $(call flags,$(INPUTS) $(PASS)) $(ARGS)

head: $(RUNTIME)
	$(PY) -m heads train $(call flags,$(INPUTS) HEAD $(TRAIN)) $(HOW) $(ARGS)

compare: $(RUNTIME)
	$(PY) -m heads compare $(call flags,$(INPUTS) $(TRAIN)) $(HOW) $(ARGS)

export: $(RUNTIME) $(LITE) $(if $(FORMATS),$(SHIPPED))
	$(PY) -m heads export $(call flags,$(INPUTS) HEAD FORMATS) $(ARGS)

predict: $(RUNTIME) $(LITE) $(if $(filter %.tflite %.onnx,$(MODEL)),$(SHIPPED))
	$(PY) -m heads predict $(call flags,$(INPUTS) HEAD INPUT MODEL ENGINE) $(ARGS)

review: $(REVIEW)
	$(PY) -m heads review $(call flags,$(INPUTS)) $(ARGS)

labels: $(RUNTIME)
	$(PY) -m heads labels $(call flags,$(INPUTS)) $(ARGS)

demo: $(RUNTIME)
	$(PY) -m extract demo --out $(DEMO) $(call flags,TASK)
	$(PY) -m extract features --out $(DEMO)
	$(PY) -m heads compare --out $(DEMO)
	$(PY) -m heads export --out $(DEMO) --parity-images 64
	$(PY) -m heads predict --out $(DEMO)
	$(PY) -m heads show --out $(DEMO)
	@echo "demo      all of it lies in $(DEMO); README.md says what each file is"

pictures: demo $(DEV)
	$(PY) -m benchmarks.pictures $(DEMO)

bench: $(DEV)
	$(PY) -m benchmarks.heads
	$(PY) -m benchmarks.sweep
	$(PY) -m benchmarks.extraction $(call flags,DATA MEDIA BACKBONE)
	$(PY) -m benchmarks.intervals
	$(PY) -m benchmarks.operating_points
	$(PY) -m benchmarks.probes $(call flags,BACKBONE)
	$(PY) -m benchmarks.containers $(call flags,BACKBONE)
	$(PY) -m benchmarks.leaks
	$(PY) -m benchmarks.review
	$(PY) -m benchmarks.classes

torture: $(DEV)
	$(PY) -m pytest -m slow -n 0
	$(PY) -m tests.campaign.torture --report docs/reliability.md $(ARGS)

test: $(DEV)
	$(PY) -m pytest $(ARGS)

lint: $(DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/hadolint Dockerfile
	$(PY) -m benchmarks.house --check
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: PYTHON=path/to/it")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.cpu-installed: requirements.txt requirements-cpu.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-cpu.txt
	@touch $@

$(VENV)/.gpu-installed: requirements-gpu.txt requirements.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-gpu.txt
	@touch $@

$(RAY): requirements-cluster.txt | $(RUNTIME)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-cluster.txt
	@touch $@

$(REVIEW): requirements-review.txt | $(RUNTIME)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-review.txt
	@touch $@

$(SHIPPED): requirements-formats.txt | $(RUNTIME)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-formats.txt
	@touch $@

$(VENV)/.lite-installed: requirements-lite.txt | $(RUNTIME)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-lite.txt
	@touch $@

$(DEV): requirements-dev.txt requirements-review.txt requirements-cluster.txt requirements-formats.txt requirements-lite.txt $(VENV)/.cpu-installed
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
