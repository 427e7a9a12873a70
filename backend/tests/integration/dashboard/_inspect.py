"""What assistive technology is told about a page, and how well its text can be read."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from playwright.sync_api import Page

from backend.tests.integration.dashboard._tab import Tab

MUST_HAVE_NAMES = {
    *(
        "button",
        "link",
        "textbox",
        "searchbox",
        "combobox",
        "checkbox",
        "image",
        "table",
        "dialog",
        "navigation",
    ),
    *("columnheader", "rowheader", "heading", "region"),
}

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


class Node(NamedTuple):
    """A node of the accessibility tree, as Chromium computes it."""

    role: str
    name: str
    level: int | None


def tree(tab: Tab) -> list[Node]:
    """Return what assistive technology sees, in the order of the page."""
    nodes = {one["nodeId"]: one for one in tab.ask_browser("Accessibility.getFullAXTree")["nodes"]}
    found: list[Node] = []
    left = [next(iter(nodes))]
    while left:
        one = nodes[left.pop()]
        left += reversed([child for child in one.get("childIds", ()) if child in nodes])
        if not one.get("ignored"):
            found.append(_node(one))
    return found


def _node(one: Any) -> Node:
    properties = {item["name"]: item["value"].get("value") for item in one.get("properties", [])}
    return Node(one["role"]["value"], one.get("name", {}).get("value", ""), properties.get("level"))


def unnamed(nodes: list[Node]) -> list[Node]:
    """Return what has a role that needs a name, and has none."""
    return [node for node in nodes if node.role in MUST_HAVE_NAMES and not node.name.strip()]


def skipped_levels(nodes: list[Node]) -> Iterator[str]:
    """Yield each heading that is more than one level below the one before it."""
    before = 0
    for node in nodes:
        if node.role == "heading" and node.level is not None:
            if node.level > before + 1:
                yield node.name
            before = node.level


# Text over its background, blended from the page's root upwards; as WCAG 2 defines the ratio.
_CONTRAST = """
() => {
  const channels = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    const scale = text.startsWith('color(srgb') ? 255 : 1;
    return [...found.slice(0, 3).map((v) => v * scale), found[3] ?? 1];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (node) => {
    const layers = [];
    for (let one = node; one; one = one.parentElement) layers.push(channels(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const weak = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    if (node.closest('script, style, noscript, .visually-hidden')) continue;
    const style = getComputedStyle(node);
    const behind = background(node);
    const [a, b] = [luminance(over(channels(style.color), behind)), luminance(behind)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) weak.push(`${text.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return weak;
}
"""


def weak_text_in_both_schemes(page: Page) -> list[str]:
    """Return each visible text whose contrast is below AA of WCAG 2 in light or dark, with its ratio."""
    found: list[str] = []
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        found += [f"{scheme}: {text}" for text in page.evaluate(_CONTRAST)]
    return found


def small_targets(page: Page, least: float) -> list[str]:
    """Return the buttons and fields that are lower than `least` pixels."""
    found: list[str] = page.evaluate(
        "(least) => [...document.querySelectorAll('button, input, select, textarea')]"
        ".filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < least)"
        ".map((one) => one.id || one.textContent)",
        least,
    )
    return found


def width(page: Page) -> int:
    """Return how wide the page is, in pixels."""
    found: int = page.evaluate("document.scrollingElement.scrollWidth")
    return found
