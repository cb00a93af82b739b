// Runs in a page that a test looks at, and says what is wrong with it; see browser.py.

// What a colour is, drawn, as red, green, blue and opacity: any way of writing it, also oklch().
const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
const brush = canvas.getContext("2d", { willReadFrequently: true });
function pixel(colour) {
  brush.clearRect(0, 0, 1, 1);
  brush.fillStyle = colour;
  brush.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}

// One colour over another that is opaque.
function over([r, g, b, a], ground) {
  return [r, g, b].map((x, i) => x * a + ground[i] * (1 - a));
}

// What is behind an element: its ancestors' grounds, from the root's (the canvas') inwards.
function groundOf(element) {
  const chain = [];
  for (let e = element; e; e = e.parentElement) chain.unshift(e);
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches &&
    getComputedStyle(document.documentElement).colorScheme.includes("dark");
  let ground = isDark ? [18, 18, 18] : [255, 255, 255];
  for (const e of chain) ground = over(pixel(getComputedStyle(e).backgroundColor), ground);
  return ground;
}

// WCAG 2.2, relative luminance and contrast ratio.
function luminance(rgb) {
  const [r, g, b] = rgb.map((x) => {
    const s = x / 255;
    return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function contrast(one, other) {
  const [dark, light] = [luminance(one), luminance(other)].sort((x, y) => x - y);
  return (light + 0.05) / (dark + 0.05);
}

function isVisible(element) {
  const box = element.getBoundingClientRect();
  return box.width > 1 && box.height > 1 &&
    element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
}

// An element in a few words.
function named(element) {
  const kind = element.tagName.toLowerCase();
  const classes = typeof element.className === "string" ? element.className : "";
  const words = (element.textContent || element.alt || "").trim().replace(/\s+/g, " ");
  return `${kind}${classes ? "." + classes.trim().split(/\s+/).join(".") : ""} "${words.slice(0, 40)}"`;
}

function weakTexts(least) {
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !isVisible(element)) continue;
    if (element.closest("svg, script, style, noscript, [aria-hidden=true]")) continue;
    const style = getComputedStyle(element);
    const ground = groundOf(element);
    const ratio = contrast(over(pixel(style.color), ground), ground);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    if (ratio < (isLarge ? Math.min(3, least) : least) - 0.005)
      found.add(`contrast: ${ratio.toFixed(2)} of ${named(element)}`);
  }
  return [...found];
}

// A phone shows a page that is too wide, or has no viewport, smaller: its innerWidth is then larger.
function tooWide(wide) {
  const root = document.documentElement;
  const is = Math.max(root.scrollWidth, document.body.scrollWidth, window.innerWidth);
  if (is <= wide) return [];
  const culprits = [...document.body.querySelectorAll("*")].filter((e) => {
    if (e.getBoundingClientRect().right <= wide + 0.5) return false;
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
      if (getComputedStyle(p).overflowX !== "visible") return false; // it scrolls by itself
    return true;
  });
  const why = culprits.slice(0, 3).map(named).join(", ") || "is there a viewport?";
  return [`width: ${is} px in ${wide}: ${why}`];
}

function unnamed() {
  const images = [...document.images].filter((e) => e.getAttribute("alt") === null);
  const broken = [...document.images].filter((e) => e.complete && e.naturalWidth === 0);
  const drawn = [...document.querySelectorAll("svg")].filter((e) =>
    !e.closest("[aria-hidden=true], [role=img], a, button, label") &&
    !e.hasAttribute("aria-label") && !e.querySelector("title"));
  return [
    ...images.map((e) => `alt: none of ${e.src.slice(0, 60)}`),
    ...broken.map((e) => `image: not shown, ${e.src.slice(0, 60)}`),
    ...drawn.map(() => "alt: none of an svg"),
    ...(document.title ? [] : ["title: none"]),
    ...(document.documentElement.lang ? [] : ["lang: none"]),
  ];
}

function look(wide, least) {
  return [...tooWide(wide), ...weakTexts(least), ...unnamed()];
}
