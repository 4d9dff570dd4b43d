"""Programs that a page is asked to run on itself, to see whether it can be read, touched and heard."""

from __future__ import annotations

MEASURED = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const colour = (text) => {  // red, green, blue and opacity, 0 to 1
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((value) => value / 255);
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, n) => value * a + below[n] * (1 - a));
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (element) => {
    if (element === null) return [1, 1, 1];
    return over(colour(getComputedStyle(element).backgroundColor), ground(element.parentElement));
  };
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim(), element = walk.currentNode.parentElement;
    if (text === "" || element.closest("option, .hidden, script, noscript") || !element.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(walk.currentNode);
    const { left, right, width } = range.getBoundingClientRect();
    if (width === 0) continue;
    const style = getComputedStyle(element), below = ground(element);
    const ink = over(colour(element.closest("svg") ? style.fill : style.color), below);
    const [bright, dim] = [luminance(ink), luminance(below)].sort((a, b) => b - a);
    const place = element.closest(".scroll") === null ? { left, right } : { left: 0, right: 0 };  // it has its own bar
    found.push({ text, contrast: (bright + 0.05) / (dim + 0.05), ...place });
  }
  return found;
}"""
"""All visible texts: the contrast of each with what is behind it (WCAG 2.2, relative luminance), and where it is."""

SMALL = """() => [...document.querySelectorAll("button, select, summary, input, label.check, .ways label")]
  .filter((each) => each.checkVisibility() && each.type !== "radio" && each.type !== "checkbox")
  .map((each) => [each.dataset.testid ?? each.textContent, each.getBoundingClientRect()])
  .filter(([, { width, height }]) => width > 0 && Math.min(width, height) < 43.9)
  .map(([name, { width, height }]) => [name, width, height])"""
"""What is to be touched and is less than 44 CSS pixels wide or high."""

UNNAMED = """() => [
    ...document.querySelectorAll("button, select, input, summary, canvas, svg, progress, video, [role]")
  ]
  .filter((each) => each.checkVisibility() && !each.closest("[aria-hidden=true]"))
  .filter((each) => !["status", "alert", "presentation"].includes(each.role))
  .filter((each) => !(each.ariaLabel || [...(each.labels ?? [])].some((label) => label.textContent.trim()) ||
    (/button|summary/i.test(each.tagName) && each.textContent.trim()) || each.closest(".seen, button[aria-label]")))
  .map((each) => each.outerHTML.slice(0, 100))"""
"""Controls and pictures that have no name for who cannot see them."""
