// Loaded before the page is drawn, so that a remembered theme does not flash; everything else is in console.js.
"use strict";
{
  const KEY = "agora.theme";
  const read = () => { try { return localStorage.getItem(KEY) ?? "auto"; } catch { return "auto"; } };
  const apply = (theme) => { document.documentElement.dataset.theme = theme; };
  apply(read());
  document.addEventListener("DOMContentLoaded", () => {
    for (const choice of document.querySelectorAll("input[name=theme]")) {
      choice.checked = choice.value === read();
      choice.addEventListener("change", () => {
        apply(choice.value);
        try { localStorage.setItem(KEY, choice.value); } catch { /* a browser without storage forgets it */ }
      });
    }
  });
}
