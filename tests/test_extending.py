"""The examples of docs/extending.md, pasted into one script, run."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_examples_run_as_one_script(tmp_path):
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4  # user encoder, objective, item encoder, and the run that uses them
    script = tmp_path / "mine.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    (tmp_path / "dataset_atomic").symlink_to(ROOT / "dataset_atomic")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 <= float(done.stdout.split()[-1]) <= 1
    (folder,) = (tmp_path / "saved" / "pixelrec").iterdir()
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    for line in ("user_encoder: RunningMean", "item_encoder: mean_colour", "objective: cosine"):
        assert line in config
