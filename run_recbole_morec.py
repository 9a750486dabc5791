"""Train and test a model: ``python run_recbole_morec.py --model=PixelNet --dataset=pixelrec``."""

import sys

from recbole_morec.cli import main

if __name__ == "__main__":
    sys.exit(main())
