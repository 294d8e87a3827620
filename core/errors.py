"""What a user did wrong, said in one line; and the door through which every command line leaves."""

import errno
import logging
import sys
from collections.abc import Callable

EXIT_USER, EXIT_INTERRUPTED = 2, 130


class UserError(Exception):
    """A message for the user: what is wrong, with the value, and what to do. Never shown with a traceback."""


def run_cli(main: Callable[[], None]) -> None:
    """Run a command line: user errors, a full or read-only disk and Ctrl-C each end in one clear line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "httpx2", "huggingface_hub", "diffusers", "transformers", "trimesh"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        main()
    except UserError as error:
        sys.exit(_say(f"error: {error}", EXIT_USER))
    except KeyboardInterrupt as stop:
        sys.exit(_say(str(stop) or "stopped", EXIT_INTERRUPTED))
    except ModuleNotFoundError as error:
        if error.name not in ("mitsuba", "torchmetrics"):
            raise
        sys.exit(_say(f"error: {error.name} is not installed: pip install 'ingen3d[kiln]'", EXIT_USER))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            sys.exit(_say("error: the disk is full: make room, then run the same command again to go on", EXIT_USER))
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            sys.exit(_say(f"error: cannot write to {error.filename} ({error.strerror}): choose another folder with --out", EXIT_USER))
        raise


def _say(line: str, code: int) -> int:
    print("\n" * (code == EXIT_INTERRUPTED) + line, file=sys.stderr)
    return code
