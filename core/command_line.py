"""What the command lines of sampling and editing share: their arguments, and how they write images."""

import argparse
import errno
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from .conditions import canny
from .domains import find_domain
from .errors import UserError
from .images import contact_sheet, load_image
from .presets import find_preset
from .progress import hide_loading_bars
from .results import SETTINGS, alone_in, make_folder, result_folder, to_json

OF_CONTROLS = {"controlnet_conditioning_scale": 1.0, "control_guidance_start": 0.0, "control_guidance_end": 1.0}  # and what they are by default


def new_parser(module: str, description: str, num_images: int, root: str) -> argparse.ArgumentParser:
    """The arguments that sampling and editing share. root: where the folders of results are."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--prompt", help="what to make; without it, anything of the domain")
    parser.add_argument("--negative-prompt", help="what to keep away from; by default the domain's own, '' for nothing")
    parser.add_argument("--no-compose", action="store_false", dest="compose_prompt",
                        help="leave the prompt as it is, without the domain's phrase and negative prompt")
    parser.add_argument("--domain", help="a known domain, its folder or Hub id, or 'none' (default: porcelain over the kiln)")
    parser.add_argument("--preset", default="kiln", help="the models: kiln, kiln-toon, sd15, a folder, a Hub id or one .safetensors file")
    parser.add_argument("--num-images", type=int, default=num_images)
    parser.add_argument("--seed", type=int, default=0, help="of the first image; the next ones count on")
    parser.add_argument("--steps", type=int, dest="num_inference_steps", help="of the sampler; the preset's by default")
    parser.add_argument("--height", type=int, help="of the images in pixels; the prior's, or by an edited picture's proportions")
    parser.add_argument("--width", type=int, help="of the images in pixels")
    weights = parser.add_argument_group("weights", "several share the steps evenly")
    weights.add_argument("--guidance-scale", type=float, help="w0, shared by Sec. 3.4 among the terms without a weight; in place of the preset's weights")
    weights.add_argument("--domain-scale", type=float, nargs="+", metavar="W", help="the domain's own weight w_d (default: the preset's)")
    weights.add_argument("--control-scale", type=float, nargs="+", metavar="W", help="the prompt's own weight w_c (default: the preset's)")
    weights.add_argument("--guidance-rescale", type=float, default=0.0, help="0 to 1, against overexposure, as in diffusers")
    weights.add_argument("--guidance-interval", type=float, nargs=2, metavar=("START", "END"), help="fractions of the steps; the preset's by default")
    weights.add_argument("--guidance-every", type=int, metavar="N", help="evaluate all terms at every Nth step only; the preset's by default")
    more = parser.add_argument_group("further conditions, each as often as you like")
    more.add_argument("--control", nargs=2, action="append", default=[], metavar=("CONTROLNET", "IMAGE"), help="a ControlNet and what it reads")
    more.add_argument("--canny", nargs=2, action="append", default=[], metavar=("CONTROLNET", "IMAGE"),
                      help="one that reads the image's edges; 'kiln' is the kiln's own")
    more.add_argument("--controlnet-conditioning-scale", type=float, help="what all that ControlNets add is multiplied by (default: 1)")
    more.add_argument("--control-guidance-start", type=float, help="the fraction of the steps from which ControlNets work")
    more.add_argument("--control-guidance-end", type=float, help="and up to which")
    more.set_defaults(**OF_CONTROLS)
    more.add_argument("--custom", nargs=2, action="append", default=[], metavar=("MODEL", "PROMPT"),
                      help="a customised checkpoint, such as kiln-toon, and its own prompt")
    more.add_argument("--custom-scale", type=float, help="its weight")
    more.add_argument("--no-rectify", action="store_false", dest="rectify", help="eps_0 from the customised network, not from the prior (ablation)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=Path, help=f"the images' folder (default: {root}/DOMAIN/PROMPT-SEED)")
    parser.set_defaults(root=Path(root))
    parser.add_argument("--device", help="cuda, mps or cpu; the best there is by default")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def choose_domain(name: str | None, preset: str) -> str | None:
    """A command line's --domain: None for 'none', and where none is given porcelain over the prior that it was trained on."""
    if name is None:
        return "porcelain" if find_domain("porcelain").prior == preset else None
    return None if name.lower() == "none" else name


def read_conditions(args: dict) -> dict:
    """The command line's arguments (they are changed) as `sample` and `edit` take them."""
    if args["custom_scale"] is not None and not args["custom"]:
        raise UserError(f"--custom-scale is {args['custom_scale']} but there is no --custom for it to weigh")
    shared, scale = {name: args.pop(name) for name in OF_CONTROLS}, args.pop("custom_scale")
    for name, usual in OF_CONTROLS.items():
        if shared[name] != usual and not args["control"] + args["canny"]:
            raise UserError(f"--{name.replace('_', '-')} is {shared[name]} but there is no --control or --canny for it to set")
    read = lambda net, file: {"controlnet": net, "image": load_image(file), **shared}
    args["controls"] = [read(*given) for given in args.pop("control")] + [read(*given) | {"extract": canny} for given in args.pop("canny")]
    args["custom"] = [{"model": model, "prompt": prompt, "scale": scale} for model, prompt in args["custom"]]
    return args


def run(make: Callable[..., list[Image.Image]], parser: argparse.ArgumentParser) -> None:
    """Parse, make images and write them with a contact sheet and the settings; what is done stays when making is stopped."""
    args = vars(parser.parse_args())
    args["domain"] = choose_domain(args["domain"], args["preset"])
    find_preset(args["preset"])
    find_domain(args["domain"])  # what is mistyped leaves no folder
    out, root = args.pop("out"), args.pop("root")
    settings = {name: value for name, value in args.items() if name not in ("device", "quiet")}
    args = read_conditions(args)
    out = out or result_folder(root, settings)
    is_new = not out.exists()
    make_folder(out)
    if args["quiet"]:
        hide_loading_bars()
    saved = []

    def keep(seed: int, image: Image.Image) -> None:
        if not saved:  # not before there is an image that they made
            (out / SETTINGS).write_text(to_json(settings))
        image.save(out / f"{seed:05d}.png")
        saved.append(seed)

    with alone_in(out):
        try:
            images = make(keep=keep, **args)
            contact_sheet(images).save(out / "sheet.png")
        except UserError:
            if is_new and not saved:
                out.rmdir()
            raise
        except (KeyboardInterrupt, OSError) as stop:
            kept = f"{len(saved)} of {args['num_images']} images are in {out}"
            if isinstance(stop, KeyboardInterrupt):
                raise KeyboardInterrupt(f"stopped: {kept}") from None
            advice = "make room there, or choose" if stop.errno == errno.ENOSPC else "choose"
            raise UserError(f"{stop.strerror or stop}: {kept}; {advice} another --out") from stop
    print(f"{len(images)} images and sheet.png in {out}")
