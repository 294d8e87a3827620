"""The kiln's world: its classes, by name, and objects of them."""

from dataclasses import replace

import numpy as np

from . import shapes
from .animals import ANIMALS
from .heads import head
from .pottery import POTTERY
from .proportions import words
from .things import THINGS

CLASSES = POTTERY | THINGS | {"head": head} | ANIMALS


def build(name: str, rng: np.random.Generator) -> shapes.Form:
    """An object of the class with the shape words that it deserves."""
    form = shapes.build(name, CLASSES[name], rng)
    return replace(form, words=(*form.words, *words(form)))
