# `make demo` and `make test` need nothing but Debian 12, root, and this tree: each installs what it lacks.

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin

# What the daemon and its containers need of the system, and what the demo's image is made from.
RUN_PACKAGES := python3 python3-venv libseccomp2 busybox-static
# The other sides that the tests compare with.
TEST_PACKAGES := $(RUN_PACKAGES) containerd runc crun skopeo umoci podman docker.io docker-registry \
	containernetworking-plugins criu mmdebstrap iproute2 libpython3.11 nftables strace tar \
	gcc libc6-dev qemu-system-x86 cpio apparmor e2fsprogs btrfs-progs erofs-utils

PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest

.PHONY: demo test test-vm test-long lint bench clean

demo: | runtime $(VENV)/.installed
	@tools/demo.sh $(CURDIR)/$(BIN)

test: | test-packages $(VENV)/.installed-dev
	@# What fails side by side with others on a busy machine has one more try, alone; twice is a failure.
	$(PYTEST) -n auto -m "not long" || $(PYTEST) -m "not long" --last-failed --last-failed-no-failures none

test-vm: | test-packages $(VENV)/.installed-dev
	$(PYTEST) -rP tests/vm

test-long: | test-packages $(VENV)/.installed-dev
	$(PYTEST) -n auto -m long --timeout 7200

lint: | $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/generate_api.py --check

bench: | test-packages $(VENV)/.installed-dev
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/run_latency.py
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/shim_output.py
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/shim_memory.py
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/exec_latency.py
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/many_containers.py
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/runtime_lifecycle.py
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/runtime_commands.py
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/lifecycles.py
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/image_transfer.py
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/store_scale.py

.PHONY: runtime test-packages
runtime:
	@tools/require_packages.sh $(RUN_PACKAGES)

test-packages:
	@tools/require_packages.sh $(TEST_PACKAGES)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache
