// A matrix as a picture: one pixel a number, from paper to a blue that the colour-blind can tell from it.
const FULL = [0, 74, 142];

export function drawMatrix(canvas, values, rows, columns, offset, largest, size) {
  canvas.width = columns;
  canvas.height = rows;
  canvas.style.width = `${size}px`;
  canvas.style.aspectRatio = `${columns} / ${rows}`;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(columns, rows);
  for (let at = 0; at < rows * columns; at += 1) {
    const share = Math.min(1, Math.sqrt(Math.max(0, values[offset + at]) / largest));
    FULL.forEach((full, channel) => {
      picture.data[4 * at + channel] = Math.round(250 + (full - 250) * share);
    });
    picture.data[4 * at + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
}

export function cellAt(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const within = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
  return {
    row: within((event.clientY - box.top) / box.height, canvas.height),
    column: within((event.clientX - box.left) / box.width, canvas.width),
  };
}
