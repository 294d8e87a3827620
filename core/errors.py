"""What a user did wrong, said in one line; and the door through which every command line leaves."""

import errno
import logging
import os
import sys
from collections.abc import Callable

from safetensors import SafetensorError

EXIT_USER, EXIT_INTERRUPTED = 2, 130
WRONG_PATH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)
LESS_MEMORY_IN_TRAINING = "give more --accumulation, or --gradient-checkpointing, and the run goes on; or a smaller --batch-size and --no-resume"


class UserError(Exception):
    """A message for the user: what is wrong, with the value, and what to do. Never shown with a traceback."""


def check_seed(seed: int) -> None:
    """Raises UserError for one that cannot seed everything: NumPy takes none beyond 32 bits."""
    if not 0 <= seed < 2**32:
        raise UserError(f"the seed is {seed}: give 0 to {2**32 - 1}")


def is_out_of_memory(error: Exception) -> bool:
    """As torch says it, which has a class of error for CUDA's memory alone, and Python."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)


def run_cli(main: Callable[[], None], less_memory: str = "compute less at once, or use another device") -> None:
    """Run a command line: user errors, full memory, a full or read-only disk and Ctrl-C each end in one clear line. less_memory: what takes less of it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "httpx2", "huggingface_hub", "diffusers", "transformers", "trimesh"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    for late in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):  # imported later, they set their own level
        os.environ.setdefault(late, "error")
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
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(_say(f"error: out of memory: {less_memory}", EXIT_USER))
    except (OSError, SafetensorError) as error:
        code = getattr(error, "errno", None)
        if code == errno.ENOSPC or "No space left" in str(error):  # safetensors has words only
            sys.exit(_say("error: the disk is full: make room, then run the same command again to go on", EXIT_USER))
        if code in WRONG_PATH:
            sys.exit(_say(f"error: cannot use {error.filename} ({error.strerror}): give another path, such as another --out", EXIT_USER))
        raise


def _say(line: str, code: int) -> int:
    print("\n" * (code == EXIT_INTERRUPTED) + line, file=sys.stderr)
    return code
