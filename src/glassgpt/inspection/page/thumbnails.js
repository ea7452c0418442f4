// The parts of pictures, and of the spectrograms of sounds, that are positions of the text.
// The medium that a position belongs to, with its row and column in it; null for a token.
export function placeOf(trace, position) {
  for (const medium of trace.overview.media) {
    const at = position - medium.first;
    if (at >= 0 && at < medium.rows * medium.columns) return { medium, row: Math.floor(at / medium.columns), column: at % medium.columns };
  }
  return null;
}

// How an element shows the part of a picture at a position as its background; nothing for a token.
export function background(trace, position) {
  const place = placeOf(trace, position);
  if (!place) return null;
  const { medium, row: line, column } = place;
  const share = (at, count) => `${count > 1 ? (100 * at) / (count - 1) : 0}%`;
  return { "background-image": `url(${medium.picture})`, "background-size": `${100 * medium.columns}% ${100 * medium.rows}%`, "background-position": `${share(column, medium.columns)} ${share(line, medium.rows)}`, "image-rendering": "pixelated" };
}
