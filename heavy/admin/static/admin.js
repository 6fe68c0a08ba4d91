"use strict";
// What htmx does not do by itself. Every page also works without scripts.

// A slider tells its value.
document.addEventListener("input", (event) => {
  const output = event.target.type === "range" && document.querySelector(`output[for="${event.target.id}"]`);
  if (output) output.textContent = `${event.target.value} %`;
});

// Forms whose choice takes effect at once are sent when it is made; their buttons are for browsers without scripts.
document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-at-once]");
  if (form) form.requestSubmit();
});

// A problem that a poll or a form ran into is shown where its result would stand.
document.addEventListener("htmx:beforeSwap", (event) => {
  const status = event.detail.xhr.status;
  if (status >= 400 && event.detail.xhr.getResponseHeader("content-type")?.startsWith("text/html")) {
    event.detail.shouldSwap = !event.detail.elt.hasAttribute("data-poll");
    event.detail.isError = false;
  }
});
