"""Shape words: what an object's proportions deserve to be called beside others of its class.

Each word stands for one measure, taken of the finished geometry, and is deserved beyond a threshold that about a fifth of the class passes.
"""

import numpy as np

from .shapes import Form

# Words for the two ends of a measure.
MEASURES = {"tall": ("slenderness", 1), "short": ("slenderness", -1), "deep": ("depth", 1), "shallow": ("depth", -1),
            "wide": ("breadth", 1), "narrow": ("breadth", -1), "round": ("roundness", 1)}  # fmt: skip
# What a class may be called, and from which value of the measure on: what 22 % of 200 to 1,000 objects pass.
WORDS: dict[str, dict[str, float]] = {
    "vase": {"tall": 1.701, "short": 1.338, "wide": 0.538, "narrow": 0.411, "round": 0.978},
    "bottle": {"tall": 2.328, "short": 1.739, "wide": 0.372, "narrow": 0.294, "round": 0.983},
    "bowl": {"deep": 0.407, "shallow": 0.303},
    "plate": {"deep": 0.136, "shallow": 0.092},
    "jar": {"tall": 1.383, "short": 1.006, "wide": 0.873, "narrow": 0.637, "round": 0.978},
    "cup": {"tall": 0.627, "short": 0.488},
    "teapot": {"tall": 0.774, "short": 0.566, "round": 0.927},
    "jug": {"tall": 1.146, "short": 0.985, "wide": 0.646, "narrow": 0.556},
    "goblet": {"tall": 1.523, "short": 1.208, "wide": 0.487, "narrow": 0.363},
    "urn": {"tall": 1.154, "short": 0.884, "wide": 0.602, "narrow": 0.47},
    "flask": {"tall": 1.4, "short": 1.266},
    "candlestick": {"tall": 2.229, "short": 0.741},
    "cone": {"tall": 1.264, "short": 0.828},
    "chair": {"tall": 1.342, "short": 1.118},
    "table": {"tall": 0.554, "short": 0.412},
    "mushroom": {"tall": 1.141, "short": 0.803},
    "lamp": {"tall": 1.433, "short": 1.185},
    "bell": {"tall": 1.384, "short": 1.103},
    "barrel": {"tall": 1.351},
    "house": {"tall": 0.83, "short": 0.683},
    "tree": {"tall": 1.789, "short": 1.31, "wide": 0.942, "narrow": 0.32},
    "rocket": {"tall": 1.446, "short": 1.158},
    "apple": {"tall": 0.99, "short": 0.876, "round": 0.885},
    "pyramid": {"tall": 0.592, "short": 0.444},
    "hourglass": {"tall": 1.709, "short": 1.389},
}  # fmt: skip


def proportions(form: Form) -> dict[str, float]:
    """slenderness: height over the largest width, of the whole. depth: the same of the body, without feet. breadth: the body's mean width over
    its height. roundness: how much its belly, 65 % of a ball about the widest place, is a ball: 1 less the mean deviation in radii."""
    vertices = np.concatenate([p.vertices for p in form.parts])
    low, high = vertices.min(0), vertices.max(0)
    slenderness = (high[2] - low[2]) / (2 * np.hypot(*(vertices - (low + high) / 2)[:, :2].T).max())

    body = np.concatenate([p.vertices for p in form.parts if p.role == "body"])
    low, high = body.min(0), body.max(0)
    across = np.hypot(*(body - (low + high) / 2)[:, :2].T)
    height, count = high[2] - low[2], 64
    level = ((body[:, 2] - low[2]) / (height + 1e-9) * count).astype(int).clip(0, count - 1)
    radius = np.zeros(count)
    np.maximum.at(radius, level, across)
    z, levels = (np.arange(count) + 0.5) * height / count, np.flatnonzero(radius)
    radius = np.interp(z, z[levels], radius[levels])
    top = radius.max()
    middle = z[radius > 0.985 * top].mean()
    missing = sum(max(0.0, 0.65 * top - there) for there in (middle, height - middle))  # a belly that is cut off is no ball
    z = z - middle
    belly = abs(z) < 0.65 * top
    ball = np.sqrt(np.maximum(top**2 - z[belly] ** 2, 0))
    return {"slenderness": float(slenderness), "depth": float(height / (2 * across.max())), "breadth": float(2 * radius.mean() / height),
            "roundness": float(1 - abs(radius[belly] - ball).mean() / top - missing / top)}


def words(form: Form) -> tuple[str, ...]:
    """What the object deserves to be called."""
    found = proportions(form) if form.name in WORDS else {}
    return tuple(word for word, limit in WORDS.get(form.name, {}).items() for measure, sign in [MEASURES[word]] if sign * found[measure] >= sign * limit)
