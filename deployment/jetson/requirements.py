#!/usr/bin/env python3
"""Prints what edge-listen requires but for onnxruntime, which a Jetson has from elsewhere: requirements.py EXTRA…"""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
wanted = project["dependencies"] + [item for extra in sys.argv[1:] for item in project["optional-dependencies"][extra]]
print("\n".join(item for item in wanted if re.split(r"[\W]", item)[0] != "onnxruntime"))
