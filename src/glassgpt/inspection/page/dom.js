// Create elements. Text from users and models is only ever set as text, never as markup.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else if (name === "style") Object.entries(value).forEach(([key, each]) => element.style.setProperty(key, each));
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function row(...children) {
  return make("div", { className: "row" }, ...children);
}

export function note(...children) {
  return make("p", { className: "note" }, ...children);
}

export function button(textContent, onclick, properties = {}) {
  return make("button", { type: "button", textContent, onclick, ...properties });
}

// Clamp `at` to 0 … count - 1.
export function within(at, count) {
  return Math.min(count - 1, Math.max(0, at));
}

// A radio group of buttons; the arrow keys move between them.
export function choices(id, label, names, chosen, choose) {
  const buttons = names.map((name, at) =>
    make("button", { type: "button", role: "radio", id: `${id}-${at}`, "aria-checked": at === chosen, tabIndex: at === chosen ? 0 : -1, onclick: () => choose(at) }, name));
  const group = make("div", { className: "choices", role: "radiogroup", "aria-label": label }, ...buttons);
  group.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = within(chosen + step, names.length);
    buttons[next].focus(); // the redrawn button with the same id gets the focus
    choose(next);
  };
  return group;
}

export function table(heading, rows, properties = {}) {
  const line = (tag, cells) => make("tr", {}, ...cells.map((cell) => (cell instanceof HTMLTableCellElement ? cell : make(tag, {}, cell))));
  return make("div", { className: "scroll" }, make("table", properties, make("thead", {}, line("th", heading)), make("tbody", {}, ...rows.map((cells) => line("td", cells)))));
}

// A cell with a bar behind its figure: from the left, or, for a negative share, from the right in another color.
export function barCell(text, share) {
  return make("td", { className: share < 0 ? "bar negative" : "bar", style: { "--share": `${100 * Math.min(1, Math.abs(share))}%` } }, text);
}

export function slider(id, label, [min, max, step], value, format, oninput, onchange = () => {}) {
  const output = make("output", { textContent: format(value) });
  const input = make("input", { type: "range", id, min, max, step });
  input.value = value; // after the limits, which would clamp it
  input.oninput = () => {
    output.textContent = format(Number(input.value));
    oninput(Number(input.value));
  };
  input.onchange = () => onchange(Number(input.value));
  return make("label", { className: "slider" }, make("span", { textContent: label }), input, output);
}

export function select(id, label, options, chosen, onchange) {
  const element = make("select", { id, "aria-label": label, onchange: () => onchange(element.value) }, ...options.map(([value, textContent]) => make("option", { value, textContent })));
  element.value = chosen;
  return element;
}

export function percent(chance) {
  if (chance === 0) return "–";
  return chance < 0.0005 ? "< 0.1 %" : `${(100 * chance).toFixed(1)} %`;
}

// Format a number with four decimals and a true minus sign.
export function figure(value, places = 4) {
  return value.toFixed(places).replace("-", "−");
}

// The shape of a tensor with the names of its axes.
export function lengthsOf({ axes, shape }, words) {
  return axes.map((axis, at) => `${words.axes[axis]} ${shape[at]}`).join(" × ");
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  let size = count;
  for (; size >= 1024 && at < units.length - 1; at += 1) size /= 1024;
  return `${at ? size.toFixed(1) : size} ${units[at]}`;
}

// Announce a text to those who do not see the page. Only changes of an element that exists are announced, so it is made at the start.
const status = document.body.appendChild(make("p", { id: "status", className: "unseen", role: "status" }));

export function tell(text) {
  status.textContent = text;
}

// Change the page, then restore the focus to the element with the same id.
export function keepingFocus(change) {
  const { id } = document.activeElement ?? {};
  change();
  if (id && document.activeElement?.id !== id) document.getElementById(id)?.focus({ preventScroll: true });
}
