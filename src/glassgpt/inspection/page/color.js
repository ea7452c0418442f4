// Color scales for color vision deficiency: brightness alone orders them. Magnitudes go from paper through blue-green to ink
// (in dark mode from ink to yellow), signed values from blue through paper to orange.
const RAMPS = {
  light: {
    magnitude: [[255, 255, 250], [199, 233, 190], [78, 184, 193], [34, 94, 168], [8, 29, 88]],
    signed: [[5, 80, 174], [110, 170, 226], [250, 250, 248], [246, 163, 90], [184, 76, 0]],
    unseen: [228, 228, 232],
  },
  dark: {
    magnitude: [[26, 28, 38], [59, 70, 135], [33, 140, 141], [94, 201, 98], [253, 231, 37]],
    signed: [[110, 184, 255], [33, 92, 158], [28, 29, 36], [156, 82, 20], [255, 166, 84]],
    unseen: [52, 54, 64],
  },
};

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
}

function between(stops, share) {
  const at = Math.min(1, Math.max(0, share)) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(at));
  return stops[low].map((from, channel) => Math.round(from + (stops[low + 1][channel] - from) * (at - low)));
}

// Position of a value on its color scale, 0 … 1. Magnitudes are mapped by their square root, so that small ones are visible.
function shareOf(kind, value, largest) {
  const share = value / (largest || 1);
  return Math.min(1, Math.max(0, kind === "signed" ? 0.5 + share / 2 : Math.sqrt(Math.max(0, share))));
}

const SHADES = 512;

// Map values to RGBA pixels by a lookup table, because images have many.
export function painter(kind, largest) {
  const ramps = RAMPS[isDark() ? "dark" : "light"];
  const pixels = new Uint32Array(new Uint8Array([...Array.from({ length: SHADES }, (_, at) => [...between(ramps[kind], at / (SHADES - 1)), 255]).flat(), ...ramps.unseen, 255]).buffer);
  return { paint: (value) => pixels[Math.round(shareOf(kind, value, largest) * (SHADES - 1))], unseen: pixels[SHADES] };
}

// A color over a picture in gray: the larger the value, the less of the picture is seen through it.
export function heat(value, largest) {
  const share = shareOf("magnitude", value, largest);
  return [...between(RAMPS[isDark() ? "dark" : "light"].magnitude, share), Math.round(255 * (0.1 + 0.75 * share))];
}

// Relative luminance of a color (WCAG 2), 0 … 1.
function luminance(color) {
  const [red, green, blue] = color.map((each) => (each / 255 <= 0.04045 ? each / 255 / 12.92 : ((each / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

// A background color, and black or white for a text on it, whichever contrasts more: at least 4.5 to 1.
export function backed(kind, value, largest) {
  const color = between(RAMPS[isDark() ? "dark" : "light"][kind], shareOf(kind, value, largest));
  const isBright = (luminance(color) + 0.05) ** 2 > 0.05 * 1.05;
  return { background: `rgb(${color.join(" ")})`, color: isBright ? "#000" : "#fff" };
}

// Legend: a strip from the lowest to the highest value.
export function ramp(kind) {
  const stops = RAMPS[isDark() ? "dark" : "light"][kind].map(([red, green, blue]) => `rgb(${red} ${green} ${blue})`);
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
