"""Runs of one plain SGD step each, one after another in the processes of one launch.

``python gradient_runs.py FOLDER CASES``: CASES is a JSON object of names and flags; each has its
run in ``FOLDER/NAME``.
"""

import json
import sys

from recbole_morec.cli import main

if __name__ == "__main__":
    folder, cases = sys.argv[1:]
    for name, flags in json.loads(cases).items():
        if code := main([*flags, f"--checkpoint_dir={folder}/{name}"]):
            sys.exit(code)
