"""Puts this folder on the path: `from t5x_weights import ...`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
