# make demo   the whole story on this machine (HEADLESS=1 ends by itself, without a page that stays up)
# make test   every test
# Both make their own virtual environment in .venv; all they need is Python 3.11 or newer with pip.

PYTHON ?= python3
FUZZ_SECONDS ?= 60
FUZZ_CASES ?= 100000
VENV := .venv
BIN := $(VENV)/bin
FRESH := build/fresh
OLDER := build/tflite-runtime
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)
PINNED := pyproject.toml constraints.txt
KERNELS := setup.py $(wildcard edgerun/csrc/*.c edgerun/csrc/*.h)
PIP = PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEV_TOOLS = $(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")'

.PHONY: demo test test-tflite-runtime test-kernels check lint types arrows stale-docs docs fuzz fuzz-firmware fuzz-properties train screenshots figures bench-digits bench-export bench-bits bench-ntt bench-spoken-digits bench-braille bench-omniglot bench-superspike bench-profiles bench-rewiring bench-delayed-cue bench-dense-rules bench-permuted-mnist bench-permuted-paper bench-consolidation bench-split-mnist bench-imu-activity bench-semg-sessions bench-values bench-eprop-online bench-condition bench-noisy-labels bench-long-life bench-peers bench-limits bench-firmware lives emulate-pi data-folder constraints system-deps venv clean

demo: $(VENV)/.demo
	$(BIN)/edgerun demo $(if $(filter-out 0,$(HEADLESS)),--headless)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q

test-tflite-runtime: $(OLDER)/.installed  ## our integers beside those of older devices' runtime (Python 3.11)
	$(OLDER)/bin/python -m pytest -q tests/unit/test_tflite_runtime.py

test-kernels: $(VENV)/.dev  ## the C kernels by clang and under sanitisers; VARIANTS=--all for every level and compiler
	$(BIN)/python tests/variants.py $(VARIANTS)

check: lint types arrows stale-docs test  ## everything that CI asks

lint: $(VENV)/.dev
	@echo "== lint"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	@echo "== types"
	$(BIN)/mypy

arrows: $(VENV)/.dev
	@echo "== arrows"
	$(BIN)/lint-imports

stale-docs: $(VENV)/.dev
	@echo "== docs"
	$(BIN)/python docs/generate.py --check

docs: $(VENV)/.dev  ## write the generated pages again
	$(BIN)/python docs/generate.py

fuzz: $(VENV)/.dev  ## hostile files for every reader: FUZZ_SECONDS=60 each, FUZZ_ONLY="onnx bundle" for some, FUZZ_SEED=1
	$(BIN)/python tests/fuzz --seconds $(FUZZ_SECONDS) $(addprefix --only ,$(FUZZ_ONLY)) $(addprefix --seed ,$(FUZZ_SEED))

fuzz-firmware: $(VENV)/.dev  ## hostile streams and checkpoints for the C firmware, under sanitisers: FUZZ_CASES=100000
	$(BIN)/python tests/fuzz/firmware.py --cases $(FUZZ_CASES)

fuzz-properties: $(VENV)/.dev  ## the property tests, for hours rather than seconds
	$(BIN)/python -m pytest -q tests/unit --hypothesis-profile=fuzz

train: data-folder $(VENV)/.train  ## train the committed examples and the models of benchmarks/export again
	$(foreach script,$(sort $(wildcard examples/*/train_*.py)) benchmarks/export/train.py,$(BIN)/python $(script) &&) true

screenshots: $(VENV)/.dev  ## play the demo and photograph it into docs/images (needs chromium)
	$(BIN)/python docs/screenshots.py

figures: data-folder $(VENV)/.dev  ## export a ResNet-8 and photograph its report into docs/images (needs chromium)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python docs/figures.py

bench-digits: $(VENV)/.dev  ## digits in blocks over five seeds: mean and spread of every arm, into docs/results.md
	$(BIN)/python benchmarks/learning/digits_blocks.py --seeds 5 --markdown docs/results.md

bench-export: data-folder $(VENV)/.dev  ## exports beside ONNX Runtime and LiteRT, same files and inputs, into docs/export-results.md
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/export/bench.py --markdown docs/export-results.md

bench-bits: data-folder $(VENV)/.train  ## what fewer bits cost: uniform widths beside those chosen by the Hessian's trace, into docs/compression-results.md (an hour)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/export/bits.py -o build/bits --markdown docs/compression-results.md

bench-ntt: data-folder $(VENV)/.train  ## label-free masks of MNIST at 3 % density beside chance and magnitude, into docs/compression-results.md (hours)
	$(BIN)/python benchmarks/export/ntt.py -o build/ntt.json --markdown docs/compression-results.md

bench-profiles: $(VENV)/.dev  ## profile small beside standard on digits in blocks, seed by seed, into docs/results.md (ten minutes)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/profiles.py --seeds 10 --markdown docs/results.md

bench-rewiring: $(VENV)/.dev  ## sparse nets whose synapses move beside fixed masks, into docs/results.md (ten minutes)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/rewiring.py --seeds 3 --markdown docs/results.md

bench-braille: data-folder $(VENV)/.train  ## seven Braille letters taught with five touches each, into docs/results.md (ten minutes; nets kept in build/braille)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/braille.py --markdown docs/results.md

bench-spoken-digits: data-folder $(VENV)/.train  ## a voice and two words that a net never heard, taught in integers, into docs/results.md (an hour)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/spoken_digits.py --rows build/spoken_digits.json --markdown docs/results.md

bench-delayed-cue: $(VENV)/.dev  ## a cue remembered over a delay, with adaptation and without, integers and floats, into docs/results.md (twenty minutes)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/delayed_cue.py --seeds 3 --markdown docs/results.md

bench-omniglot: data-folder $(VENV)/.train  ## letters from one drawing each: prototypes and MAML, floats and integers, into docs/results.md (half an hour; nets kept in build/omniglot)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/omniglot.py --markdown docs/results.md

bench-superspike: $(VENV)/.dev  ## spike trains taught by SuperSpike: temporal XOR and a bitmap, three kinds of feedback, floats and integers, into docs/results.md (twenty minutes)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/superspike.py --jobs 2 --markdown docs/results.md

bench-dense-rules: $(VENV)/.dev  ## rules of dense stacks over their rates, MQ beside Adam, one-way feedback, integers and floats, into docs/results.md (half an hour)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/dense_rules.py --seeds 3 --markdown docs/results.md

bench-permuted-mnist: data-folder $(VENV)/.dev  ## shuffled pixels task by task, one head: integers with and without protection, beside floats, into docs/results.md (hours)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/permuted_mnist.py --seeds 3 --markdown docs/results.md

bench-permuted-paper: data-folder $(VENV)/.train  ## the same at the size of the paper, floats alone, into docs/results.md (an hour; goes on where it was stopped)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/learning/permuted_mnist_paper.py --markdown docs/results.md

bench-consolidation: $(VENV)/.dev  ## what keeps old skills, one protection at a time, integers beside floats, into docs/results.md (half an hour)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/consolidation.py --seeds 10 --markdown docs/results.md

bench-split-mnist: data-folder $(VENV)/.dev  ## five pairs of digits in turn, with synaptic intelligence and its controls, into docs/results.md (an hour)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/split_mnist.py --seeds 3 --paper 3 --markdown docs/results.md

bench-eprop-online: $(VENV)/.dev  ## e-prop at every step beside e-prop at the window's end: accuracy and memory, into docs/results.md (three minutes)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/eprop_online.py --seeds 5 --markdown docs/results.md

bench-values: data-folder $(VENV)/.dev  ## a hand's velocity from spikes, electrodes changed: lessons that bring values, integers and floats, into docs/results.md (ten minutes)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/values.py --seeds 5 --markdown docs/results.md

bench-imu-activity: data-folder $(VENV)/.train  ## activity of people a net never met, labels late and seldom, into docs/results.md (ten minutes; nets kept in build/imu)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/imu_activity.py --markdown docs/results.md

bench-condition: data-folder $(VENV)/.dev  ## a bearing under another load, then a loose sensor: told without labels, learned from few, into docs/results.md (five minutes)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/condition.py --seeds 5 --markdown docs/results.md

bench-long-life: $(VENV)/.dev  ## a million samples of recurring drift on a device whose power is cut hundreds of times, into docs/results.md (half an hour; kept in build/long_life)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/long_life.py --markdown docs/results.md

bench-semg-sessions: data-folder $(VENV)/.train  ## sEMG: the armband put on again, labels late and seldom, into docs/results.md (ten minutes; nets kept in build/semg)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/semg_sessions.py --markdown docs/results.md

bench-noisy-labels: $(VENV)/.dev  ## wrong labels in the digits stream: replay, guard, and labels set aside, into docs/results.md (twenty minutes)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/learning/noisy_labels.py --seeds 5 --markdown docs/results.md

bench-peers: $(VENV)/.bench  ## inference, spiking steps and learning beside LiteRT, ONNX Runtime, torch, Norse, snnTorch and Avalanche, into docs/peers.md (five minutes)
	$(BIN)/python benchmarks/peers/bench.py --markdown docs/peers.md

bench-limits: $(VENV)/.dev  ## each C kernel beside reading its bytes and multiplying alone, into docs/peers.md (half a minute)
	$(BIN)/python benchmarks/peers/limits.py --markdown docs/peers.md

bench-firmware: $(VENV)/.dev  ## the example nets as firmware on emulated Cortex-M: memory, instructions, lessons, into docs/firmware.md (two minutes)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/firmware/bench.py --markdown docs/firmware.md

lives: $(VENV)/.dev  ## 10,000 hostile lessons of every rule: numpy, C by every build, and firmware on every emulated processor (an hour; firmware goes on where it was stopped)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/trajectories.py
	OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/variants.py --all --lives 10000
	OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/board_lives.py --jobs 2

emulate-pi: $(VENV)/.dev  ## the agent on emulated Raspberry Pis, 64 and 32 bits: to the bit what it does here (root file systems kept in build/pi)
	$(BIN)/python -m firmware_sim.pi

data-folder:
	@test -d "$(EDGERUN_DATA)" || { echo "EDGERUN_DATA must name the folder of data sets, it is '$(EDGERUN_DATA)'" >&2; exit 2; }

venv: $(VENV)/.dev

$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgerun needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@echo "== making $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 \
	    || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@touch $@

$(VENV)/.demo: $(VENV)/.pip $(PINNED) $(KERNELS)
	@echo "== installing what the demo needs (about half a minute)"
	@$(PIP) setuptools && $(PIP) --no-build-isolation --editable '.[demo,sign]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "== installing what the tests need"
	@$(DEV_TOOLS) >$(VENV)/dev.txt
	@$(PIP) --requirement $(VENV)/dev.txt
	@touch $@

$(VENV)/.train: $(VENV)/.demo
	@echo "== installing what training needs (torch: some minutes)"
	@$(PIP) --no-build-isolation --editable '.[train]'
	@touch $@

$(VENV)/.bench: $(VENV)/.train
	@echo "== installing the peers (torchvision comes along: some minutes)"
	@$(PIP) --no-build-isolation --editable '.[bench]'
	@touch $@

$(OLDER)/.installed: constraints-tflite.txt
	@$(PYTHON) -m venv --clear $(OLDER)
	@$(OLDER)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@

constraints:  ## resolve every version anew, from nothing
	$(PYTHON) -m venv --clear $(FRESH)
	$(DEV_TOOLS) >$(FRESH)/dev.txt
	$(FRESH)/bin/python -m pip install --quiet --requirement $(FRESH)/dev.txt setuptools torch==2.13.0 --editable '.[demo,sign,train]'
	{ echo '# Every version that the project is tested with. Written by: make constraints'; \
	  $(FRESH)/bin/python -m pip list --format=freeze --exclude-editable | sed '/^pip==/d; s/+.*//'; } >constraints.txt
	rm -rf $(FRESH)

system-deps:  ## Debian packages: the broker and the browser that some tests drive, compilers and emulators of other processors
	$(SUDO) apt-get update -qq
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    mosquitto chromium gcc clang gcc-arm-none-eabi qemu-system-arm qemu-user-static \
	    gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross

clean:
	rm -rf $(VENV) build dist *.egg-info edgerun-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
