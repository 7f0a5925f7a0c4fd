"""Opens the EvalLog of each committed audit bundle with inspect_ai itself: `python check_eval_log.py BUNDLE.zip …`.

That these logs are what the code writes is for tests/test_audit_page.py to say; this needs inspect_ai and nothing else.
"""

import json
import sys
import tempfile
import zipfile
from pathlib import Path

from inspect_ai.log import read_eval_log

for path in sys.argv[1:]:
    with zipfile.ZipFile(path) as bundle, tempfile.TemporaryDirectory() as scratch:
        content, results = bundle.read("eval.json"), json.loads(bundle.read("results.json"))
        samples = len(bundle.read("samples.jsonl").splitlines())
        (Path(scratch) / "eval.json").write_bytes(content)
        log = read_eval_log(str(Path(scratch) / "eval.json"))
    assert log.status == "success", log.status
    assert log.samples is not None and len(log.samples) == samples == log.results.total_samples
    assert [score.name for score in log.results.scores] == [check["name"] for check in results["checks"]]
    for score, check in zip(log.results.scores, results["checks"], strict=True):
        numbers = {m["name"]: m.get("value", m.get("successes", 0) / m.get("n", 1)) for m in check["metrics"]}
        assert {name: metric.value for name, metric in score.metrics.items()} == numbers, score.name
    print(f"{path}: inspect_ai reads {samples} samples and {len(results['checks'])} scores")
if len(sys.argv) == 1:
    sys.exit("no bundle was given")
