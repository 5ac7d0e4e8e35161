#!/usr/bin/env python3
"""Exit with 0 if a service answers as it does when it is well: health.py URL PATTERN."""

import re
import sys
import urllib.request

_, url, pattern = sys.argv
with urllib.request.urlopen(url, timeout=4) as answer:
    text = answer.read().decode()
if not re.search(pattern, text):
    sys.exit(f"expected {pattern} at {url}, found {text[:200]}")
