// What pages have in common: their elements, what they say, and whether controls work.

export const $ = (id) => document.getElementById(id);

export function say(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

export function enable(on) {
  for (const control of document.querySelectorAll("input, select, button")) control.disabled = !on;
}

export function seedOf(id) {
  return Math.min(Math.max(Math.round(Number($(id).value)) || 0, 0), Number.MAX_SAFE_INTEGER);
}
