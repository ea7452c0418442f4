// Drawing with SVG elements, made by code like those of dom.js.
const SVG = "http://www.w3.org/2000/svg";

export function shape(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function box(x, y, width, height, attributes = {}) {
  return shape("rect", { x, y, width: Math.max(1, width), height, rx: 3, ...attributes });
}

// Text with its middle at the height y.
export function label(x, y, text, attributes = {}) {
  return shape("text", { x, y, "dominant-baseline": "central", ...attributes }, text);
}

const WIDE = /[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\uff00-\uff60]/u;

// Columns of a monospaced text: Hangul, Han and kana take two.
export function columnsOf(text) {
  return [...text].reduce((sum, character) => sum + (WIDE.test(character) ? 2 : 1), 0);
}

// The beginning of a text that fits into a number of columns.
export function fitted(text, columns) {
  if (columnsOf(text) <= columns) return text;
  let found = "";
  for (const character of text) {
    if (columnsOf(found + character) > columns - 1) break;
    found += character;
  }
  return `${found}…`;
}
