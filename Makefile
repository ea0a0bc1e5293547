# Every target sets up what it needs: nothing is installed by hand. PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
DATA ?= ../shared/data/esc50
NEGATIVES ?= ../shared/data/negatives
OPEN = --recipe open --outliers $(NEGATIVES) --backgrounds $(NEGATIVES)
# Speech and music of Debian's packages; then all that there is; other sounds are no background.
FOLDERS = $(foreach kind,$(1),--outliers runs/others/$(kind) --backgrounds runs/others/$(kind))
OPEN_TO_ALL = --more runs/more $(OPEN) $(call FOLDERS,speech music noise) --outliers runs/others/sounds
MADE_BY = --licence CC-BY-NC-3.0 --made-by "make model DATA=ESC-50 NEGATIVES=negatives"
JOBS ?= 3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get
# A package that is there already is left alone; elsewhere than on Debian the user is told what is missing. Whether it matters
# that a repository is away, install shows.
need = dpkg-query -W -f '$${Status}' $(1) 2>/dev/null | grep -q 'ok installed' || { command -v apt-get >/dev/null && { $(APT) update -qq; $(APT) install -y -qq --no-install-recommends $(1); }; } || { echo "install $(1) with your system's package manager" >&2; exit 1; }

.PHONY: demo listen test machine deploy deploy-container deploy-pi lint model bench bundle clean

demo: $(VENV)/.runtime  ## classify the bundled recording
	$(BIN)/edge-listen --input examples/demo.ogg --realtime --output text

listen: $(VENV)/.runtime  ## classify the microphone
	@ldconfig -p | grep -q libportaudio || { $(call need,libportaudio2); }
	$(BIN)/edge-listen

test: $(VENV)/.train $(VENV)/.test  ## the fast tests; make test ARGS="-m slow" runs the others
	@ldconfig -p | grep -q libportaudio || { $(call need,libportaudio2); }
	@command -v pulseaudio >/dev/null || { $(call need,pulseaudio); }
	@command -v pactl >/dev/null || { $(call need,pulseaudio-utils); }
	@$(call need,libasound2-plugins)
	@ldconfig -p | grep -q libmagic || { $(call need,libmagic1); }
	@command -v jackd >/dev/null || { $(call need,jackd2); }
	@command -v strace >/dev/null || { $(call need,strace); }
	@command -v shellcheck >/dev/null || { $(call need,shellcheck); }
	@command -v promtool >/dev/null || { $(call need,prometheus); }
	@test -x /usr/sbin/mosquitto || command -v mosquitto >/dev/null || { $(call need,mosquitto); }
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow and not timed"
	$(BIN)/python -m pytest -m "timed and not slow"
endif

machine:  ## what the tests in a virtual machine need; without it they are skipped
	@command -v qemu-system-x86_64 >/dev/null || { $(call need,qemu-system-x86); }
	@command -v busybox >/dev/null || { $(call need,busybox-static); }
	@command -v aplay >/dev/null || { $(call need,alsa-utils); }
	@command -v systemd-analyze >/dev/null || { $(call need,systemd); }

deploy: deploy-container deploy-pi  ## image and bundle, built and tried: needs root, and is skipped where that or a tool is missing

deploy-container: $(VENV)/.test
	@command -v buildah >/dev/null || { $(call need,buildah); }
	@command -v debootstrap >/dev/null || { $(call need,debootstrap); }
	deployment/container/check.sh

deploy-pi: $(VENV)/.test
	@$(call need,debian-archive-keyring)
	@$(call need,qemu-user-static)
	@$(call need,binfmt-support)
	deployment/raspberry_pi/check.sh

lint: $(VENV)/.runtime $(VENV)/.lint  ## format, rules, types, import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

model: $(VENV)/.train  ## train the bundled models again, a day of a processor: make model DATA=path/to/ESC-50 NEGATIVES=path/to/negatives
	$(BIN)/python -m train outliers runs/others
	$(BIN)/python -m train more runs/more
	$(BIN)/python -m train fit $(DATA) --out runs/bundled
	$(BIN)/python -m train fit $(DATA) $(OPEN) --init runs/bundled/checkpoint.pt --epochs 135 --out runs/open-1
	$(BIN)/python -m train fit $(DATA) $(OPEN) --init runs/open-1/checkpoint.pt --epochs 180 --seed 1 --out runs/open-2
	$(BIN)/python -m train fit $(DATA) $(OPEN) $(call FOLDERS,speech music) --init runs/open-1/checkpoint.pt --epochs 120 --seed 2 --out runs/open-3
	$(BIN)/python -m models.mean runs/open-3/mean.pt runs/open-1/checkpoint.pt runs/open-2/checkpoint.pt runs/open-3/checkpoint.pt
	$(BIN)/python -m train fit $(DATA) $(OPEN_TO_ALL) --init runs/open-3/mean.pt --epochs 90 --seed 4 --out runs/open
	$(BIN)/python -m models.mean runs/open/mean.pt runs/open-3/mean.pt runs/open/checkpoint.pt
	$(BIN)/python -m export runs/open/mean.pt --name edge-listen --out edge/assets --degrade $(MADE_BY)
	$(BIN)/python -m models.pretrained runs/open/mean.pt
	$(BIN)/python -m train fit $(DATA) --recipe tiny --out runs/tiny
	$(BIN)/python -m train fit $(DATA) $(OPEN_TO_ALL) --init runs/tiny/checkpoint.pt --epochs 135 --out runs/tiny-1
	$(BIN)/python -m train fit $(DATA) $(OPEN_TO_ALL) --init runs/tiny-1/checkpoint.pt --set cycles=2 --epochs 180 --seed 1 --out runs/tiny-2
	$(BIN)/python -m export runs/tiny-2/checkpoint.pt --name edge-listen-tiny --out edge/assets --ranges compare --degrade $(MADE_BY)

bench: $(VENV)/.runtime  ## what a decision costs on this machine
	$(BIN)/edge-bench

ARCH ?= aarch64
bundle: $(BIN)/python  ## all that a Raspberry Pi needs, to be installed without a network: make bundle ARCH=aarch64
	$(BIN)/python deployment/raspberry_pi/bundle.py --arch $(ARCH)

clean:
	rm -rf $(VENV) build dist *.egg-info .cache .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "needs Python 3.11 or newer: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(call need,python3-venv); }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.train: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[train,export,tracking]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[test]'
	@touch $@

$(VENV)/.lint: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[lint]'
	@touch $@
