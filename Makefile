# make setup | demo | test | lint | format | bench | bench-quality | bench-state | bench-kinesis | live | chaos | chaos-live |
# chaos-kinesis | image-check | lock; each sets up .venv first and needs nothing but Python 3.11 or 3.12.
.PHONY: setup demo test lint bench bench-quality bench-state live chaos chaos-live chaos-kinesis bench-kinesis image-check lock format

setup:
	@./deploy/setup.sh

# Traffic generated, replayed through the default profile, and a report of what was caught; no server.
demo: setup
	.venv/bin/python -m load_tests.demo --out demo-out

# One worker more than there are cores, since many tests wait for processes that were killed.
test: setup
	.venv/bin/python -m pytest -n $$(.venv/bin/python -c "import os; print(min(4, (os.cpu_count() or 1) + 1))") --dist worksteal

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: setup
	.venv/bin/ruff format .

# Decisions per second on one core, file to file, durable state; see README for what is measured.
bench: setup
	.venv/bin/python -m load_tests.bench_decide --out bench-out

# Average precision, AUC and CP@100 of the learners on late labels, beside XGBoost retrained weekly (in .venv-bench).
bench-quality: setup .venv-bench/bin/xgboost-ready
	.venv/bin/python -m load_tests.bench_quality --out bench-out/quality --xgboost .venv-bench/bin/python

.venv-bench/bin/xgboost-ready: deploy/bench.lock
	.venv/bin/python -m venv .venv-bench
	.venv/bin/uv pip install --quiet --python .venv-bench/bin/python --require-hashes --requirement deploy/bench.lock
	touch $@

# Memory, resume, stalls and throughput at 100 thousand, 1 million and 5 million entities; the states are kept.
bench-state: setup
	.venv/bin/python -m load_tests.bench_growth --out bench-out/growth

# From payment produced to decision consumed over a Kafka of its own, 1,000 a second, a learner beside it: percentiles and the tail.
live: setup
	.venv/bin/python -m load_tests.live --out live-out

# Replays that are killed, stopped, starved and damaged KILLS times must end as if nothing had been: docs/chaos.md.
KILLS ?= 50
chaos: setup
	.venv/bin/python -m load_tests.chaos --out chaos-out --kills $(KILLS) $(if $(SEED),--seed $(SEED))

# The same over a Kafka of its own, with the broker gone for a minute; counted by a consumer that knows nothing of Weir.
chaos-live: setup
	.venv/bin/python -m load_tests.chaos_live --out chaos-live-out --kills $(KILLS) $(if $(SEED),--seed $(SEED))

# The image without a container engine: the Dockerfile's steps in a plain directory, then what compose runs, over a Kafka.
image-check: setup
	.venv/bin/python -m load_tests.image --out image-out

# Chaos over a stand-in for Kinesis, with streams split and merged at the moment of a kill; needs Node.
chaos-kinesis: setup
	.venv/bin/python -m load_tests.chaos_kinesis --out chaos-kinesis-out --kills $(KILLS) $(if $(SEED),--seed $(SEED))

# Throughput a shard and latency over that stand-in.
bench-kinesis: setup
	.venv/bin/python -m load_tests.bench_kinesis --out bench-out/kinesis

# Exact versions with hashes of everything, for both Python versions; of what the image is made of; and of uv itself.
lock: setup
	.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		--extra dev pyproject.toml -o requirements.lock
	.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		--custom-compile-command "make lock" -c requirements.lock pyproject.toml -o deploy/image.lock
	printf 'xgboost-cpu>=3\nnumpy\n' | .venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
		--python-version 3.11 --custom-compile-command "make lock" - -o deploy/bench.lock
	echo hatchling | .venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
		--python-version 3.11 --custom-compile-command "make lock" -c requirements.lock - -o deploy/build.lock
	echo uv | .venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
		--python-version 3.11 --custom-compile-command "make lock" - -o deploy/uv.lock
