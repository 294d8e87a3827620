"""Sample images in a domain: `python -m core.sample` by another name.

python scripts/generate.py --domain porcelain --prompt "a vase" --num-images 8
"""

from core.errors import run_cli
from core.sample import main

if __name__ == "__main__":
    run_cli(main)
