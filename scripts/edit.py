"""Edit a picture in a domain: `python -m core.edit` by another name.

python scripts/edit.py --domain porcelain --image my.png --prompt "a vase with leaves" --strength 0.5
"""

from core.errors import run_cli


def main() -> None:
    from core.edit import main  # inside, as this takes seconds, in which Ctrl-C is one line too

    main()


if __name__ == "__main__":
    run_cli(main)
