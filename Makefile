PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROOMS := model verifier runtime diagrams cli
# pip is told to be quiet and to leave the network's advice alone; what it installs is pinned.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14
