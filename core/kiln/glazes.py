"""Captioned surfaces of the kiln's world: materials, colours and patterns, and what is said of them.

A surface is painted as one RGB colour a vertex (linear sRGB is the renderer's business: colours here are
display-referred sRGB in [0, 1]) plus the name of the reflectance model that the renderer uses.
"""

from dataclasses import dataclass

import numpy as np

from .patterns import PATTERNS, PHRASES, coverage, random_waves, superpose
from .shapes import Form, Part

COLOURS = {
    "red": (0.78, 0.12, 0.12), "orange": (0.93, 0.50, 0.10), "yellow": (0.93, 0.82, 0.20), "green": (0.16, 0.55, 0.22),
    "blue": (0.14, 0.28, 0.75), "purple": (0.48, 0.20, 0.62), "pink": (0.94, 0.55, 0.68), "brown": (0.42, 0.26, 0.15),
    "black": (0.09, 0.09, 0.10), "white": (0.92, 0.92, 0.91), "gray": (0.50, 0.50, 0.51),
}
# Materials with a colour of their own: (sRGB, reflectance, how much the colour mottles, what an object is made of).
SUBSTANCES = {
    "wooden": ((0.60, 0.40, 0.22), "diffuse", 0.0, "wood"), "clay": ((0.72, 0.40, 0.27), "diffuse", 0.04, "clay"),
    "stone": ((0.55, 0.54, 0.52), "diffuse", 0.18, "stone"), "gold": ((1.00, 0.78, 0.34), "metal", 0.0, "gold"),
    "silver": ((0.92, 0.92, 0.93), "metal", 0.0, "silver"), "copper": ((0.95, 0.60, 0.46), "metal", 0.0, "copper"),
    "bronze": ((0.46, 0.34, 0.20), "metal", 0.10, "bronze"), "marble": ((0.90, 0.89, 0.87), "glossy", 0.0, "marble"),
    "jade": ((0.50, 0.72, 0.55), "glossy", 0.14, "jade"),
}
PATTERN_SHARES = [0.37, *[0.07] * (len(PATTERNS) - 1)]
WITH_WORD, WITH_DETAIL, SHORT, SHOWN = 0.5, 0.85, 0.14, 0.3  # how often a caption has each
CONTRAST = 0.42  # of two colours of one object, in sRGB: brown on black shows no pattern
FRAMES = ("a photo of", "a picture of", "a small picture of", "an image of")


@dataclass
class Surface:
    """What an object looks like; `caption` is None for domains, which have images only."""

    rgb: list[np.ndarray]  # per part (N, 3), sRGB
    reflectance: str  # glossy | diffuse | metal
    caption: str | None
    labels: dict  # ground truth for the judge: colour, second colour, pattern, material, and the form's attributes


def captioned(form: Form, rng: np.random.Generator) -> Surface:
    """A random captioned surface for the prior's world: "a glossy blue vase striped with yellow"."""
    if rng.random() < 0.22:
        return substance(form, rng)
    finish = str(rng.choice(["glossy", "matte", ""]))
    first = str(rng.choice(list(COLOURS)))
    second = str(rng.choice(contrasting(first)))
    pattern = str(rng.choice(PATTERNS, p=PATTERN_SHARES))
    paints = [np.array(COLOURS[c]) * rng.uniform(0.9, 1.05) for c in (first, second)]
    rgb = [np.clip((paints[0] + cover[:, None] * (paints[1] - paints[0])) * part.tone, 0, 1)
           for part, cover in zip(form.parts, coverage(pattern, form.parts, rng))]
    reflectance = "glossy" if finish == "glossy" or (not finish and rng.random() < 0.5) else "diffuse"
    labels = {"colour": first, "second": second if pattern != "plain" else None, "pattern": pattern, "material": finish or None}
    return Surface(rgb, reflectance, describe(form, finish, first, second, pattern, rng), labels | form.attributes)


def contrasting(colour: str) -> list[str]:
    """Colours that a pattern on this one can be told from."""
    return [c for c in COLOURS if np.linalg.norm(np.subtract(COLOURS[colour], COLOURS[c])) > CONTRAST]


def substance(form: Form, rng: np.random.Generator) -> Surface:
    """A random material with a colour of its own: "a wooden chair"."""
    name = str(rng.choice(list(SUBSTANCES)))
    colour, reflectance, mottle, stuff = SUBSTANCES[name]
    waves = [random_waves(rng, frequency) for frequency in (9, 3)]
    rgb = [np.clip(np.array(colour) * grain(name, part, mottle, *waves)[:, None] * part.tone, 0, 1) for part in form.parts]
    word, detail = details(form, rng)
    if rng.random() < 0.2 and not detail:
        text = join(word, form.name, "made of", stuff)
    else:
        text = join(word, name, form.name, detail)
    labels = {"colour": None, "second": None, "pattern": "plain", "material": name}
    return Surface(rgb, reflectance, frame(shorten(text, word, name, form, rng), rng), labels | form.attributes)


def grain(name: str, part: Part, mottle: float, fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """A substance's brightness at each vertex (N,)."""
    shade = 1 + mottle * superpose(part.vertices, fine)
    if name == "wooden":  # growth rings about a slightly tilted axis
        axis = part.vertices[:, 0] * 1.0 + 0.15 * part.vertices[:, 2] + 0.05 * superpose(part.vertices, coarse)
        shade = shade * (1 + 0.16 * np.sin(axis * 30))
    if name == "marble":  # veins run where the noise crosses zero
        vein = np.abs(superpose(part.vertices, coarse) + 0.25 * superpose(part.vertices, fine))
        shade = shade * (1 - 0.45 * np.exp(-(vein / 0.09) ** 2))
    return shade


def join(*words: str) -> str:
    return " ".join(w for w in words if w)


def details(form: Form, rng: np.random.Generator) -> tuple[str, str]:
    """One of the adjectives that the form deserves, or "", and what is said after its class, or ""."""
    word = str(rng.choice(form.words)) if form.words and rng.random() < WITH_WORD else ""
    return word, form.detail if rng.random() < WITH_DETAIL else ""


def describe(form: Form, finish: str, first: str, second: str, pattern: str, rng: np.random.Generator) -> str:
    """A caption in one of several phrasings. The first colour is named before the second in all of them."""
    word, detail = details(form, rng)
    plain = join(word, finish, first, form.name)
    if pattern == "plain":
        texts = [join(plain, detail)] * 3
        if not detail:
            texts += [join(word, form.name, "in", finish, first)] + ([f"{join(word, first, form.name)}, {finish}"] if finish else [])
    else:
        adjective, said, things = PHRASES[pattern]
        said, things = said.format(second), things.format(second) if things.endswith("s") else with_article(things.format(second))
        both = f"{first} and {second}"
        texts = [join(word, finish, both, adjective, form.name, detail), join(word, finish, adjective, both, form.name, detail)]
        if detail.startswith("with "):
            texts += [join(plain, "with", things, "and", detail.removeprefix("with "))] * 2
        else:
            texts += [join(plain, said, detail), join(plain, "with", things, detail)] * 2
        if not detail:
            texts += [join(word, adjective, form.name, "in", finish, both), join(word, form.name, "in", finish, first, "with", things)]
            texts += [f"{join(word, both, adjective, form.name)}, {finish}"] if finish else []
    return frame(shorten(str(rng.choice(texts)), word, first, form, rng), rng)


def shorten(text: str, word: str, quality: str, form: Form, rng: np.random.Generator) -> str:
    """Now and then only the class, or it and its colour or material, so that short prompts are known too."""
    if rng.random() < SHORT:
        return str(rng.choice([form.name, join(word, form.name), join(quality, form.name)]))
    return text


def frame(text: str, rng: np.random.Generator) -> str:
    """The article, and now and then what kind of thing an image is."""
    return f"{rng.choice(FRAMES)} {with_article(text)}" if rng.random() < SHOWN else with_article(text)


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
