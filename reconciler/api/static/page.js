// Keeps the page true: listens for news, fetches the changed part, keeps what the reader opened open.
"use strict";

(() => {
  const live = document.getElementById("live");
  const shortest = 400; // ms between two refreshes, however much happens
  const longest = 10000; // ages ("12 s ago") grow old even when nothing happens
  let last = 0, timer = null, busy = false, again = false, state = "off";

  const words = { on: "live", off: "reconnecting…", lost: "the daemon does not answer" };

  function show(next) {
    state = next;
    const pulse = document.getElementById("pulse");
    if (!pulse) return;
    pulse.dataset.state = state;
    const text = pulse.querySelector(".text");
    if (text.textContent !== words[state]) text.textContent = words[state];
  }

  function opened() {
    const seen = new Map();
    for (const part of live.querySelectorAll("details[id]")) seen.set(part.id, part.open);
    return seen;
  }

  function replace(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("fragment");
    if (!fresh) return;
    const before = opened();
    const scrolled = [...live.querySelectorAll("pre, .events ol")].map((part) => part.scrollTop);
    const focused = document.activeElement && document.activeElement.closest("details[id]");
    live.replaceChildren(document.adoptNode(fresh));
    for (const part of live.querySelectorAll("details[id]")) {
      if (before.has(part.id)) part.open = before.get(part.id);
    }
    live.querySelectorAll("pre, .events ol").forEach((part, place) => { part.scrollTop = scrolled[place] || 0; });
    const again = focused && document.getElementById(focused.id);
    if (again) again.querySelector("summary").focus({ preventScroll: true });
    document.title = fresh.dataset.title;
    show(state);
  }

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    last = Date.now();
    try {
      const answer = await fetch("/fragment", { cache: "no-store", signal: AbortSignal.timeout(8000) });
      if (answer.ok && !reading()) replace(await answer.text());
    } catch {
      if (state !== "on") show("lost");
    } finally {
      busy = false;
      if (again) { again = false; soon(); }
    }
  }

  // Text that is being selected must not vanish under the reader's hand.
  function reading() {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && live.contains(selection.anchorNode);
  }

  function soon() {
    if (timer) return;
    timer = setTimeout(() => { timer = null; refresh(); }, Math.max(0, last + shortest - Date.now()));
  }

  function listen() {
    const source = new EventSource("/api/v1/events/stream");
    source.addEventListener("open", () => { show("on"); soon(); });
    source.addEventListener("event", soon);
    source.addEventListener("status", soon);
    source.addEventListener("error", () => {
      show("off");
      // A refused stream is closed for good by the browser: start another one ourselves.
      if (source.readyState === EventSource.CLOSED) { source.close(); setTimeout(listen, 3000); }
    });
  }

  show("off");
  listen();
  setInterval(() => { if (!document.hidden && Date.now() - last > longest) soon(); }, 1000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(); });
})();
