"""Boxes of PASCAL VOC annotations, as Stanford Dogs, Oxford-IIIT Pet and Tsinghua Dogs have them.

Their corners count from 1 and are inside the box; ours count from 0, and x1, y1 are outside.
"""

from collections.abc import Sequence
from xml.etree import ElementTree

from shards.geometry import Box

HEADS_FIRST = ("headbndbox", "bndbox", "bodybndbox")
BODIES_FIRST = ("bodybndbox", "bndbox", "headbndbox")


def read_box(data: bytes, kinds: Sequence[str] = HEADS_FIRST) -> Box | None:
    """The box of the largest object, of the first kind that it has.

    None: there is none. A box that reaches outside the picture is cut to the size that stands in the
    annotation.

    Raises:
        ValueError: it isn't a VOC annotation, or declares entities.
    """
    if b"<!" in data.replace(b"<!--", b""):
        raise ValueError("an annotation with declarations")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None
    size = (_number(root, "size/width"), _number(root, "size/height"))
    boxes = [box for thing in root.iter("object") if (box := _box_of(thing, size, kinds))]
    return max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), default=None)


def _box_of(
    thing: ElementTree.Element, size: tuple[int | None, int | None], kinds: Sequence[str]
) -> Box | None:
    found = next((kind for name in kinds if (kind := thing.find(name)) is not None), None)
    if found is None:
        return None
    corners = [_number(found, name) for name in ("xmin", "ymin", "xmax", "ymax")]
    x0, y0, x1, y1 = corners
    if x0 is None or y0 is None or x1 is None or y1 is None:
        raise ValueError(f"a box with the corners {corners}")
    width, height = size[0] or x1, size[1] or y1
    box = max(x0 - 1, 0), max(y0 - 1, 0), min(x1, width), min(y1, height)
    return box if box[0] < box[2] and box[1] < box[3] else None


def _number(element: ElementTree.Element, path: str) -> int | None:
    text = element.findtext(path)
    return round(float(text)) if text else None
