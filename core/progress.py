"""Progress bars of the libraries below."""

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


def hide_loading_bars() -> None:
    """No bars while models load or download: what --quiet asks for besides none of our own."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()  # and huggingface_hub's with it
