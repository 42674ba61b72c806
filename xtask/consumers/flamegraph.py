"""Reads a flame graph as XML, and finds the time of every folded stack in it.

flamegraph.py SVG FOLDED
"""

import sys
import xml.etree.ElementTree as xml

SVG = "{http://www.w3.org/2000/svg}"
picture = xml.parse(sys.argv[1]).getroot()
assert picture.tag == SVG + "svg"
allowed = {SVG + name for name in ("svg", "g", "rect", "text", "title")}
assert {element.tag for element in picture.iter()} <= allowed, "something else than shapes and text"

boxes = []
for group in picture.iter(SVG + "g"):
    box = group.find(SVG + "rect")
    boxes.append((group.find(SVG + "title").text, float(box.get("x")), float(box.get("width")), float(box.get("y"))))

total = 0
tops = {}
for line in open(sys.argv[2], encoding="utf-8", newline="\n"):
    stack, count = line.rsplit(" ", 1)
    total += int(count)
    top = stack.split(";")[0]
    tops[top] = tops.get(top, 0) + int(count)
assert boxes[0][0].startswith("all: ") and boxes[0][2] == 1200
for top, count in tops.items():
    width = count / total * 1200
    if width >= 1:
        assert any(title.startswith(top + ": ") and abs(box - width) < 0.11 for title, _, box, _ in boxes), top
# Nothing lies beneath another at the same height.
for level in {y for *_, y in boxes}:
    row = sorted((x, x + width) for _, x, width, y in boxes if y == level)
    assert all(end <= begin + 0.3 for (_, end), (begin, _) in zip(row, row[1:])), f"boxes overlap at {level}"
