// Live hints: one stream a page, over the topics that its parts name. What a hint names is fetched again by
// live.js; without a stream live.js polls. fetch and not EventSource, so that comments count as life.
(() => {
  "use strict";
  const SILENCE_MS = 20000;
  const root = document.documentElement;
  const known = new Map();
  let open = null;
  let names = "";
  let last = "";
  let heard = 0;
  let pause = 1000;
  let again = 0;

  const wanted = () => [...new Set(
    [...document.querySelectorAll("[data-topic]")].flatMap((e) => e.dataset.topic.split(","))
  )].slice(0, 20).sort().join(",");
  const tell = (topics) => document.dispatchEvent(new CustomEvent("hint", { detail: topics }));
  function say(state) {
    if (root.dataset.stream === state) return;
    root.dataset.stream = state;
    document.dispatchEvent(new CustomEvent("stream"));
  }

  function take(frame) {
    let data = "";
    let kind = "";
    for (const line of frame.split("\n")) {
      if (line.startsWith("id: ")) last = line.slice(4);
      else if (line.startsWith("data: ")) data = line.slice(6);
      else if (line.startsWith("event: ")) kind = line.slice(7);
    }
    if (kind === "reset") tell(null);
    if (kind || !data) return;
    const { id, rev } = JSON.parse(data);
    if (known.get(id) === rev) return;
    known.set(id, rev);
    tell([id]);
  }

  async function listen(control) {
    const url = `/events?topics=${encodeURIComponent(names)}`;
    const headers = last ? { "Last-Event-ID": last } : {};
    const answer = await fetch(url, { headers, signal: control.signal, redirect: "error", cache: "no-store" });
    if (answer.status !== 200 || !answer.body) { pause = 30000; return; }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done || control.signal.aborted) return;
      heard = Date.now();
      pause = 1000;
      say("live");
      const frames = (text + value).split("\n\n");
      text = frames.pop();
      frames.forEach(take);
    }
  }

  function stop() {
    if (open) open.abort();
    open = null;
  }

  function look() {
    const now = Date.now();
    const asked = document.hidden ? "" : wanted();
    if (open && (asked !== names || now - heard > SILENCE_MS)) stop();
    if (!open && document.hidden) return;
    if (!asked) { delete root.dataset.stream; return; }
    if (open || now < again) return;
    const control = new AbortController();
    if (asked !== names) last = "";
    [open, names, heard] = [control, asked, now];
    listen(control).catch(() => {}).then(() => {
      if (open !== control) return;
      open = null;
      again = Date.now() + pause * (0.5 + Math.random());
      pause = Math.min(30000, pause * 2);
      say("polling");
    });
  }

  document.addEventListener("visibilitychange", look);
  window.addEventListener("pagehide", stop);
  setInterval(look, 1000);
  look();
})();
