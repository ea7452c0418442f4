// Pictures and sounds beside a prompt: attached as files or pasted, shown, and sent as data URLs in the parts of OpenAI's API.
import { button, make, row, tell } from "./dom.js";

const TYPES = { image: "image/png,image/jpeg,image/webp,image/gif,image/bmp", audio: "audio/*" };

let attached = []; // { name, modality, url }; kept when the page is drawn again, but not in the address, for which they are too long

export function takeAttached() {
  const taken = attached;
  attached = [];
  return taken;
}

export const attachedNow = () => [...attached];

// The modalities that every shown model knows.
export function modalitiesOf(view) {
  const shown = view.state.panes.slice(0, view.state.compare ? 2 : 1);
  const models = shown.map(({ model }) => view.api.models.find(({ id }) => id === model));
  return Object.keys(TYPES).filter((each) => models.every((model) => model?.modalities?.includes(each)));
}

export function partOf({ modality, url }) {
  if (modality === "image") return { type: "image_url", image_url: { url } };
  return { type: "input_audio", input_audio: { data: url.slice(url.indexOf(",") + 1) } };
}

// The button, and what is attached; null if a shown model knows text only.
export function attachments(view) {
  const { words } = view;
  const known = modalitiesOf(view);
  if (!known.length) return null;
  const input = make("input", { type: "file", multiple: true, hidden: true, accept: known.map((each) => TYPES[each]).join(","), id: "attach-file" });
  input.onchange = () => attach(view, [...input.files]);
  const remove = (item) => {
    attached = attached.filter((each) => each !== item);
    view.redraw();
    document.getElementById("attach")?.focus();
    tell(words.removed(item.name));
  };
  const chips = attached.map((item) => make("span", { className: "chip" }, preview(words, item), button("✕", () => remove(item), { "aria-label": words.remove(item.name) })));
  return row(button(words.attach, () => input.click(), { id: "attach" }), input, ...chips);
}

export function preview(words, { modality, name, url }) {
  if (modality === "image") return make("img", { src: url, alt: name, title: name, className: "medium" });
  return make("audio", { src: url, controls: true, "aria-label": name, title: name, className: "medium" });
}

// Attach the files that a shown model knows; say which others were left out.
export async function attach(view, files) {
  const known = modalitiesOf(view);
  const isKnown = ({ type }) => known.some((each) => type.startsWith(`${each}/`));
  const added = files.filter(isKnown);
  const urls = await Promise.all(added.map(read));
  attached.push(...added.map(({ name, type }, at) => ({ name, modality: type.split("/")[0], url: urls[at] })));
  view.redraw();
  document.getElementById("attach")?.focus();
  const others = files.filter((file) => !isKnown(file)).map(({ name }) => name);
  if (others.length) view.say(new Error(view.words.cannotAttach(others.join(", "))));
  else tell(view.words.attached(added.map(({ name }) => name).join(", ")));
}

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
