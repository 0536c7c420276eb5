"""XGBoost in batches, to compare with: retrained each week on every label known by then. Needs xgboost and numpy only.

    python baseline_xgboost.py FEATURES.npz SCORES.jsonl FIRST_DAY DELAY_DAYS

FEATURES.npz is what load_tests/bench_quality.py exports: features, ids, times_us, fraud. A payment is known when it is
DELAY_DAYS old. Depth 5 and 200 trees are those of the published comparison; the rest is XGBoost's default.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

import numpy as np

DAY_US = 86_400_000_000


def main() -> None:
    """Train, score a week, go on."""
    import xgboost  # noqa: PLC0415  # not installed where the rest of the project runs

    source, target, first, delay_days = sys.argv[1:]
    content = np.load(source)
    features, ids, times_us, fraud = (content[name] for name in ("features", "ids", "times_us", "fraud"))
    start_us = int(datetime.fromisoformat(first).replace(tzinfo=UTC).timestamp() * 1e6)
    delay_us = int(float(delay_days) * DAY_US)
    scores = np.zeros(len(ids))
    while start_us <= int(times_us.max()):
        known = times_us < start_us - delay_us
        week = (times_us >= start_us) & (times_us < start_us + 7 * DAY_US)
        given = {"objective": "binary:logistic", "max_depth": 5, "tree_method": "hist", "seed": 1}
        model = xgboost.train(given, xgboost.DMatrix(features[known], label=fraud[known]), num_boost_round=200)
        scores[week] = model.predict(xgboost.DMatrix(features[week]))
        start_us += 7 * DAY_US
    with open(target, "w") as out:
        for name, score in zip(ids.tolist(), scores.tolist(), strict=True):
            out.write(json.dumps({"transaction_id": name, "score": score}) + "\n")


if __name__ == "__main__":
    main()
