# Everything a developer calls. Each target sets up what it needs by itself on Debian 12 with cargo, go and python, as root.
# Downloads, tools and build results are kept outside the work tree, in CARTULARY_CACHE, so that a fresh clone is quick.
SHELL := /bin/bash
.DEFAULT_GOAL := help

export CARTULARY_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cartulary
export CARGO_TARGET_DIR ?= $(CARTULARY_CACHE)/target

.PHONY: help demo test check bench endurance image clean-machine

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## A real cluster, a recorded Prosody, people talking, the archive compared with what they said (KEEP=1 keeps it)
	@tests/demo

test: ## All tests: crates, then whole clusters; the last line counts them
	@tests/all

check: ## Formatting, lints, licences, generated files, shell and Lua syntax
	@tests/check

bench: ## The benchmarks, as ratios in one run on this machine
	@tests/bench/run

endurance: ## An hour of talk while every part is killed again and again; nothing may be lost or doubled
	@tests/endurance

image: ## The product's image as an archive to load, in CARTULARY_CACHE
	@tests/image

clean-machine: ## End every cluster of this cache and remove the cache
	@tests/clean-machine
