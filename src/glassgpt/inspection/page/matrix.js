// A matrix as an image: one pixel per value, a frame around the selected cell, and its value below.
import { painter, ramp } from "./color.js";
import { make, within } from "./dom.js";
import { fitted } from "./svg.js";

const MOST_LABELS = 32; // maximum number of labelled rows, or columns
const LETTERS = 13; // of the label of a row
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export function largestOf(values) {
  let largest = 0;
  for (const value of values) if (Math.abs(value) > largest) largest = Math.abs(value);
  return largest;
}

// Whether the mask lets a query attend to a key.
export function isSeenBy({ mask }) {
  return (query, key) => mask.values[query * mask.shape[1] + key] > 0;
}

// kind: "magnitude" or "signed"; isSeen(row, column): whether a cell is visible.
export function drawMatrix(canvas, { values, rows, columns, kind = "magnitude", largest = 1, isSeen = () => true }) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(columns, rows);
  const pixels = new Uint32Array(picture.data.buffer);
  const { paint, unseen } = painter(kind, largest);
  for (let row = 0, at = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1, at += 1) pixels[at] = isSeen(row, column) ? paint(values[at]) : unseen;
  }
  context.putImageData(picture, 0, 0);
}

function cellAt(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const at = (share, count) => within(Math.floor(share * count), count);
  return [at((event.clientY - box.top) / box.height, canvas.height), at((event.clientX - box.left) / box.width, canvas.width)];
}

// Tell about the cell of a canvas under the pointer, and choose one by a click or an arrow key. cell: [row, column] of the
// selected one, or null; idle: text while the pointer is elsewhere.
export function selectCells(canvas, readout, { cell, tell, choose, idle }) {
  readout.textContent = idle;
  canvas.onpointermove = (event) => { readout.textContent = tell(...cellAt(canvas, event)); };
  canvas.onpointerleave = () => { readout.textContent = idle; };
  canvas.onclick = (event) => choose(...cellAt(canvas, event));
  canvas.onkeydown = (event) => {
    const step = STEPS[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const [row, column] = cell ?? [0, 0];
    choose(within(row + step[0], canvas.height), within(column + step[1], canvas.width));
  };
}

// The frame around a cell.
export function frameOf([row, column], rows, columns) {
  return make("span", { className: "frame", style: { top: `${(100 * row) / rows}%`, left: `${(100 * column) / columns}%`, height: `${100 / rows}%`, width: `${100 / columns}%` } });
}

// shown: the arguments of drawMatrix, and id, label, cell [row, column], tell(row, column) -> text, choose(row, column),
// names of the rows, columnNames, and height in pixels if the matrix is not square.
export function matrix(shown) {
  const { id, label, rows, columns, cell, tell, choose, names = [], columnNames = [], height = null } = shown;
  const canvas = make("canvas", { id, tabIndex: 0, role: "application", "aria-roledescription": "matrix", "aria-label": label, "aria-describedby": `${id}-told` });
  drawMatrix(canvas, shown);
  canvas.style.setProperty("aspect-ratio", height ? "auto" : `${columns} / ${rows}`);
  if (height) canvas.style.setProperty("height", `${height}px`);
  const readout = make("p", { className: "told", id: `${id}-told`, "aria-live": "polite" });
  selectCells(canvas, readout, { cell, tell, choose, idle: tell(...cell) });
  const picture = make("div", { className: "picture" }, canvas, frameOf(cell, rows, columns));
  const labelled = make("div", { className: "labelled" }, labels(names.map((name) => fitted(name, LETTERS)), cell[0], "labels"), picture, labels(columnNames, cell[1], "labels columns"));
  return make("div", { className: "matrix" }, labelled, scaleOf(shown), readout);
}

// With more names than fit, only the cell under the pointer is named, below the image.
function labels(names, chosen, className) {
  if (!names.length || names.length > MOST_LABELS) return null;
  return make("div", { className, "aria-hidden": "true" }, ...names.map((textContent, at) => make("span", { textContent, className: at === chosen ? "chosen" : "" })));
}

function scaleOf({ kind = "magnitude", largest = 1 }) {
  const most = largest.toFixed(2);
  return make("div", { className: "ramp", "aria-hidden": "true" }, kind === "signed" ? `−${most}` : "0", make("i", { style: { background: ramp(kind) } }), most);
}
