"""Sample images in a domain: `python -m core.sample` by another name.

python scripts/generate.py --domain porcelain --prompt "a vase" --num-images 8
"""

from core.errors import run_cli


def main() -> None:
    from core.sample import main  # inside, as this takes seconds, in which Ctrl-C is one line too

    main()


if __name__ == "__main__":
    run_cli(main)
