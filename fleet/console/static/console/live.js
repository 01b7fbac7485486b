// Live parts of the console. Every page works without this file: it refreshes fragments, never owns state.
(() => {
  "use strict";
  const LOOK_S = 15; // a part that hints keep fresh: what only the clock changes is not hinted
  const root = document.documentElement;
  let paused = false;
  const lastGood = new WeakMap();

  const regions = () => [...document.querySelectorAll("[data-poll-s]")];
  const marker = document.getElementById("freshness");
  const toggle = document.getElementById("pause-updates");

  const isHinted = (region) => root.dataset.stream === "live" && Boolean(region.dataset.topic);

  function tell(state, words) {
    if (!marker) return;
    marker.hidden = false;
    marker.dataset.live = state;
    marker.querySelector(".words").textContent = words;
  }

  const word = () => (root.dataset.stream === "live" ? "live" : "polling");

  // A region with the focus, a selection or something typed in it is left alone: nothing is swapped under the reader.
  function isBusy(region) {
    const selection = document.getSelection();
    return (region.contains(document.activeElement) && document.activeElement !== region)
      || (selection && !selection.isCollapsed && region.contains(selection.anchorNode))
      || [...region.querySelectorAll("input, select, textarea")].some(isDirty);
  }

  function tick() {
    const all = regions();
    if (!all.length) {
      if (marker && !marker.hidden) tell("ended", "final");
      if (toggle) toggle.hidden = true;
      return;
    }
    if (paused || document.hidden) return;
    for (const region of all) {
      const { pollS, hintS, due } = region.dataset; // hintS: a whole page is asked for, so seldom without hints
      const every = (!isHinted(region) ? Number(pollS) : due ? Number(hintS || pollS) : LOOK_S) * 1000;
      const last = Number(region.dataset.asked || 0);
      if (Date.now() - last < every) continue;
      if (isBusy(region)) { tell("waiting", "newer data waits until you are done with this part"); continue; }
      region.dataset.asked = String(Date.now());
      delete region.dataset.due;
      htmx.trigger(region, "refresh");
    }
  }

  // Somebody began to read or type while the answer was on its way: it is asked for again later.
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const region = event.detail.target;
    if (!("pollS" in region.dataset) || !isBusy(region)) return;
    event.detail.shouldSwap = false;
    region.dataset.asked = "0";
    region.dataset.due = "1";
  });

  document.body.addEventListener("htmx:afterRequest", (event) => {
    const region = event.target.closest ? event.target.closest("[data-poll-s]") : null;
    if (!region && !(event.detail.xhr && event.detail.xhr.status === 200)) return;
    const status = event.detail.xhr ? event.detail.xhr.status : 0;
    const now = new Date().toISOString().slice(11, 19);
    if (status === 200 || status === 204) {
      lastGood.set(document.body, Date.now());
      document.querySelectorAll(".is-old").forEach((old) => old.classList.remove("is-old"));
      tell("live", `${word()}, ${now} UTC`);
    } else if (status === 401) {
      tell("waiting", "signed out: open the login in a new tab, this page stays");
    } else if (region) {
      region.classList.add("is-old");
      tell("waiting", "not reachable, shown is what was last known");
    }
  });

  // A hint has its parts asked at once, and no more often than they poll; while a part is busy it waits.
  document.addEventListener("hint", (event) => {
    for (const region of regions()) {
      const mine = (region.dataset.topic || "").split(",");
      if (!event.detail || event.detail.some((topic) => mine.includes(topic))) region.dataset.due = "1";
    }
    tick();
  });
  document.addEventListener("stream", () => {
    for (const region of regions()) region.dataset.due = "1"; // what changed between the two is not known
    if (regions().length) tell("live", word());
  });

  // The sentence is announced when it changed, at most every ten seconds.
  let announced = "";
  let announcedAt = 0;
  document.body.addEventListener("htmx:afterSwap", () => {
    relative();
    for (const region of regions()) region.dataset.asked = region.dataset.asked || String(Date.now());
    const voice = document.getElementById("announcer");
    const sentence = document.querySelector("[data-sentence]");
    if (!voice || !sentence) return;
    const text = sentence.textContent.trim();
    if (text !== announced && Date.now() - announcedAt > 10000) {
      announced = text;
      announcedAt = Date.now();
      voice.textContent = text;
    }
    const controls = document.getElementById("controls");
    if (controls && sentence.dataset.allowed !== controls.dataset.allowed) {
      htmx.trigger(controls, "renew");
    }
  });

  if (toggle) {
    toggle.hidden = !regions().length;
    toggle.addEventListener("click", () => {
      paused = !paused;
      toggle.setAttribute("aria-pressed", String(paused));
      toggle.textContent = paused ? "Resume updates" : "Pause updates";
      if (paused) tell("waiting", "updates paused"); else tick();
    });
  }

  // Relative times go on without the server.
  function words(seconds) {
    const away = Math.abs(seconds);
    if (away < 5) return "just now";
    if (away >= 30 * 86400) return "";
    const unit = away < 60 ? ["s", 1] : away < 3600 ? ["min", 60] : away < 86400 ? ["h", 3600] : ["d", 86400];
    const text = `${Math.floor(away / unit[1])} ${unit[0]}`;
    return seconds > 0 ? `${text} ago` : `in ${text}`;
  }
  function relative() {
    for (const time of document.querySelectorAll("time[data-relative]")) {
      const text = words((Date.now() - Date.parse(time.dateTime)) / 1000);
      if (text && time.textContent !== text) time.textContent = text;
    }
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const from = document.getElementById(button.dataset.copy);
      await navigator.clipboard.writeText(from.textContent.trim());
      const before = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = before; }, 1500);
    });
  }

  // One click, one action: a form that was sent is not sent twice.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post" || form.hasAttribute("hx-post")) return;
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "1";
    window.addEventListener("pageshow", () => { delete form.dataset.sent; }, { once: true });
  });

  // Forms survive a reload, a lost login and a way back: what differs from the page as it came is kept in this
  // tab until it was saved. A form names itself by data-keep; hidden fields, secrets and files are not kept.
  // With what was typed goes the revision that it was typed over: once that is an older one, saving it is the
  // conflict that it would have been, and no overwrite. An answer that told of it says data-rev, what it compared
  // with: from there on it was seen.
  const UNKEPT = ["hidden", "password", "file", "submit", "button"];
  const nameOf = (form) => `form:${form.dataset.keep}`;
  const isKept = (field) => Boolean(field.name) && !UNKEPT.includes(field.type);
  const fields = (form) => [...form.elements].filter(isKept);
  const isTick = (field) => field.type === "checkbox" || field.type === "radio";
  const keyOf = (field) => (isTick(field) ? `${field.name}=${field.value}` : field.name);
  const valueOf = (field) => (isTick(field) ? field.checked : field.value);
  function before(field) {
    if (isTick(field)) return field.defaultChecked;
    if (!field.options) return field.defaultValue;
    const chosen = [...field.options].find((option) => option.defaultSelected) || field.options[0];
    return chosen ? chosen.value : "";
  }
  function isDirty(field) {
    return isKept(field) && valueOf(field) !== before(field);
  }
  function kept(form) {
    let known = null;
    try { known = JSON.parse(sessionStorage.getItem(nameOf(form))); } catch { /* not ours */ }
    return { rev: "", said: {}, ...known };
  }
  // also: keys of fields that were typed into before the page, which is the answer to them, came.
  function keep(form, rev, also = {}) {
    const dirty = fields(form).filter((field) => isDirty(field) || keyOf(field) in also);
    const said = Object.fromEntries(dirty.map((field) => [keyOf(field), valueOf(field)]));
    if (dirty.length) sessionStorage.setItem(nameOf(form), JSON.stringify({ rev, said }));
    else sessionStorage.removeItem(nameOf(form));
    return dirty.length;
  }
  function watch(form) {
    const { rev } = form.elements;
    const { rev: typedOver, said } = kept(form);
    // An answer to what was sent has the values in it already, beside what is wrong with them.
    if (form.querySelector("[aria-invalid='true'], [role='alert']")) {
      const seen = form.dataset.rev || (rev ? rev.value : "");
      if (form.dataset.rev) keep(form, seen, said);
      form.addEventListener("input", () => keep(form, seen, said));
      return;
    }
    const now = rev ? rev.value : "";
    for (const field of fields(form)) {
      if (!(keyOf(field) in said)) continue;
      if (isTick(field)) field.checked = said[keyOf(field)]; else field.value = said[keyOf(field)];
    }
    let over = typedOver || now;
    const settle = () => {
      if (!keep(form, over)) over = now;
      if (rev) rev.value = over;
    };
    settle();
    form.addEventListener("input", settle);
  }
  // A page that says that something was done ends what was typed for it.
  const sent = sessionStorage.getItem("form-sent");
  sessionStorage.removeItem("form-sent");
  if (sent && document.querySelector("[data-test='message'].tone-good, [data-test='made']")) {
    sessionStorage.removeItem(sent);
  }
  for (const form of document.querySelectorAll("form[data-keep]")) {
    watch(form);
    form.addEventListener("submit", () => sessionStorage.setItem("form-sent", nameOf(form)));
    for (const link of form.querySelectorAll("a.quiet")) {
      link.addEventListener("click", () => sessionStorage.removeItem(nameOf(form)));
    }
  }

  // What a verb said becomes a toast: put into a live region that stands already, so that it is read out.
  // It stays until it is dismissed or the next page; without this file it is a notice above the page.
  const told = document.getElementById("messages");
  if (told) {
    const notes = [...told.children];
    told.className = "toasts";
    told.setAttribute("role", "status");
    told.replaceChildren();
    setTimeout(() => told.append(...notes), 50);
    for (const note of notes) {
      const button = note.querySelector("[data-dismiss]");
      button.hidden = false;
      button.addEventListener("click", () => {
        note.remove();
        document.getElementById("content").focus({ preventScroll: true });
      });
    }
  }

  // Shortcuts: single keys, silent in fields; without the mark on the body they are off.
  const TYPED = "input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable], dialog *";
  let goneAt = 0;
  function step(by) {
    const links = [...document.querySelectorAll(".table td.main a")];
    const row = document.activeElement.closest("tr");
    const at = row ? links.findIndex((link) => link.closest("tr") === row) : -1;
    const next = at < 0 ? links[by > 0 ? 0 : links.length - 1] : links[at + by];
    if (next) next.focus();
  }
  document.addEventListener("keydown", (event) => {
    if (!("shortcuts" in document.body.dataset) || event.target.closest(TYPED)) return;
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const isSecond = Date.now() - goneAt < 1500;
    goneAt = 0;
    const link = isSecond && /^[a-z]$/.test(event.key) && document.querySelector(`[data-go="${event.key}"]`);
    if (link) link.click();
    else if (event.key === "g") goneAt = Date.now();
    else if (event.key === "/") document.getElementById("search").focus();
    else if (event.key === "?") document.getElementById("shortcuts").showModal();
    else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
    else return;
    event.preventDefault();
  });

  const firstError = document.querySelector("[aria-invalid='true']");
  if (firstError) firstError.focus();

  setInterval(tick, 500);
  setInterval(relative, 5000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { relative(); tick(); } });
  for (const region of regions()) region.dataset.asked = String(Date.now());
  if (regions().length) tell("live", word());
})();
