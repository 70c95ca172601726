"""The geometry of one picture: turn it upright, crop it to a box, shrink it."""

from typing import NamedTuple

from PIL import Image

from shards.form import Form

# A JPEG is decoded at 1/2 or 1/4 if that leaves this many times the target. Against a full decode and
# the same filter, 512 pixels at 1/2 to 256: 49 dB in the mean, 43 at least; q92 itself loses more.
_MARGINS = {4: 1.4, 2: 1.0}

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MIRRORED_X = (2, 3, 6, 7)  # orientations whose upright left is the far end of a stored axis
_MIRRORED_Y = (3, 4, 7, 8)

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the upright picture; x1, y1 exclusive


class BoxError(Exception):
    """A crop box that isn't inside its picture, or holds no pixel."""


class ShapeError(Exception):
    """A picture whose shape isn't wanted, as `kind: detail`."""


class Plan(NamedTuple):
    """What becomes of a picture of some upright size."""

    upright: tuple[int, int]  # width, height of the whole picture
    box: Box
    target: tuple[int, int]  # width, height of the result

    @property
    def crop(self) -> tuple[int, int]:
        """Width and height of the box."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    @property
    def is_change(self) -> bool:
        """Whether the result differs from the whole picture."""
        return self.target != self.upright

    @property
    def factor(self) -> int:
        """1, 2 or 4: how much smaller a JPEG may be decoded; odd eighths are slow."""
        if self.target == self.crop:
            return 1
        crop, target = min(self.crop), min(self.target)
        fits = (factor for factor, margin in _MARGINS.items() if crop / factor >= margin * target)
        return next(fits, 1)


def plan(upright: tuple[int, int], box: Box | None, form: Form) -> Plan:
    """The crop and the size of the result.

    Args:
        upright: width, height of the picture, upright.
        box: what to crop to; None: the whole picture.
        form: what's wanted; nothing is ever enlarged.

    Raises:
        BoxError: the box is empty or reaches outside.
        ShapeError: what's in the box is too small or too elongated.
    """
    width, height = upright
    x0, y0, x1, y1 = box or (0, 0, width, height)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise BoxError(f"{x0},{y0},{x1},{y1} in {width}x{height} pixels")
    crop = _widened((x0, y0, x1, y1), upright, form.box_margin)
    _check_shape(crop[2] - crop[0], crop[3] - crop[1], form)
    if form.resize == "crop":
        crop = _centred_square(crop)
    return Plan(upright, crop, _shrunk(crop[2] - crop[0], crop[3] - crop[1], form))


def _widened(box: Box, upright: tuple[int, int], margin: float) -> Box:
    """A box with a share of its sides more on each side, as far as the picture reaches."""
    x0, y0, x1, y1 = box
    across, down = round(margin * (x1 - x0)), round(margin * (y1 - y0))
    return (
        max(0, x0 - across),
        max(0, y0 - down),
        min(upright[0], x1 + across),
        min(upright[1], y1 + down),
    )


def _check_shape(width: int, height: int, form: Form) -> None:
    if form.min_size is not None and min(width, height) < form.min_size:
        raise ShapeError(f"too small: {width}x{height} pixels, --min-size {form.min_size}")
    if form.max_aspect is not None and max(width, height) > form.max_aspect * min(width, height):
        raise ShapeError(f"too elongated: {width}x{height} pixels, --max-aspect {form.max_aspect}")


def _centred_square(box: Box) -> Box:
    x0, y0, x1, y1 = box
    side = min(x1 - x0, y1 - y0)
    left, top = x0 + (x1 - x0 - side) // 2, y0 + (y1 - y0 - side) // 2
    return left, top, left + side, top + side


def _shrunk(width: int, height: int, form: Form) -> tuple[int, int]:
    """Width and height once the side that the form names is at most its size."""
    side = max(width, height) if form.resize == "longer" else min(width, height)
    if form.size is None or form.size >= side:
        return width, height
    least = 1 if form.resize == "longer" else form.size
    scale = form.size / side
    return max(least, round(width * scale)), max(least, round(height * scale))


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height of a picture once it's turned upright."""
    return (size[1], size[0]) if orientation >= 5 else size


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The picture upright; `orientation` is EXIF's, 1 … 8."""
    return image.transpose(_TRANSPOSE[orientation]) if orientation > 1 else image


def resized(image: Image.Image, made: Plan, factor: int, orientation: int) -> Image.Image:
    """Crop and shrink an upright picture that was decoded `factor` times smaller."""
    x0, y0, x1, y1 = made.box
    if made.target == made.crop:
        return image.crop(made.box) if made.is_change else image
    # A width that `factor` doesn't divide ends in a partial pixel: after mirroring, it comes first.
    x = image.width - made.upright[0] / factor if orientation in _MIRRORED_X else 0.0
    y = image.height - made.upright[1] / factor if orientation in _MIRRORED_Y else 0.0
    right, bottom = min(x + x1 / factor, image.width), min(y + y1 / factor, image.height)
    box = (x + x0 / factor, y + y0 / factor, right, bottom)
    return image.resize(made.target, Image.Resampling.LANCZOS, box=box)
