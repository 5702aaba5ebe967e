// Puts the newest page in the place of this one, every few seconds, and keeps what has been opened and where one is.
"use strict";

const pause = () => new Promise((done) => setTimeout(done, 10000));

const refresh = async () => {
  const answer = await fetch("/", { cache: "no-store" });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const opened = [...document.querySelectorAll("details")].map((one) => one.open);
  const scrolled = [...document.querySelectorAll(".scroll")].map((one) => [one.scrollLeft, one.scrollTop]);
  for (const part of ["header", "main"]) {
    const [now, next] = [document.querySelector(part), page.querySelector(part)];
    if (now && next && now.innerHTML !== next.innerHTML) now.replaceWith(next);
  }
  document.querySelectorAll("details").forEach((one, place) => (one.open = opened[place] ?? false));
  document.querySelectorAll(".scroll").forEach((one, place) => one.scrollTo(...(scrolled[place] ?? [0, 0])));
};

(async () => {
  for (;;) {
    await pause();
    if (document.visibilityState === "visible") await refresh().catch(() => {});
  }
})();
