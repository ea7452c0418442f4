// What went wrong, in words of the page.
import { make, note } from "./dom.js";
import { NoProgramError, NotSavedError } from "./source.js";

export function messageOf(error, words) {
  if (error instanceof NotSavedError) return words.notSaved;
  if (error instanceof NoProgramError) return words.noProgram;
  return error.message || words.failed;
}

export function failure(error, words) {
  if (error instanceof NotSavedError) return note(words.notSaved);
  return make("p", { className: "failed", role: "alert", textContent: messageOf(error, words) });
}
