// The tour of a talk: stations that arrow keys or a presenter's clicker go through, each with one sentence and one part
// of the page in the light. No station waits for the server.
(() => {
  const text = (selector) => document.querySelector(selector)?.textContent.trim() ?? "";
  const size = () => text("#caption-full-precision b"), ratio = () => text("#caption-naive .caption > span");
  const steps = () => document.querySelectorAll('[data-path="naive"]').length;

  // What a station lights, what is said of it, what it does. A station is left out where its first part is not shown.
  const STATIONS = [
    { name: "full-precision", lit: [".q-image.full-precision"],
      say: () => `The model as trained${size() && `: ${size()}`}, at full precision.` },
    { name: "damage", lit: [".q-image.naive", ".q-image.full-precision"],
      say: () => `Quantized${ratio() && `: ${ratio()}`}. Same prompt, same noise: whatever differs is the damage.` },
    { name: "path", lit: ["#path:has(.path)"],
      say: () => steps() > 1 ? "Each step starts where the last one ended, so an early error travels along the path."
        : "One step is all there is: its error is the error of the image." },
    { name: "drag", lit: [".q-card:has(> .sliders)", ".q-image.qsched", ".q-image.naive"], act: () => travel(24, 100),
      say: () => "Two coefficients, no training: c<sub>x</sub> scales the noisy image, c<sub>ε</sub> the prediction." },
    { name: "map", lit: ["#surface", ".q-image.qsched"], act: () => travel(1, 1500, 1),
      say: () => "Each cell is one pair of coefficients, its colour the score of its images. A click goes there." },
    { name: "verdict", lit: [".verdict", ".q-images"],
      say: () => `Does it help? Measured on this image${text(".verdict").includes("held-out")
        ? " and on prompts that the search never saw" : ""}.` },
  ];

  // --- acting: from 1 to the best known coefficients, as a hand would; on the map only along its axes ------------------------------------------------
  let timers = [], unfinished = false;
  const press = (selector) => {
    const button = document.querySelector(selector);
    if (button && !button.disabled) button.click();
  };
  const stop = () => (timers.forEach(clearTimeout), (timers = []));
  const goal = () => JSON.parse(document.querySelector("[data-best]")?.dataset.best ?? "null");
  const there = () => {
    const best = goal(), link = new URLSearchParams(document.querySelector("#state [data-link]")?.dataset.link);
    return !!best && ["c_x", "c_eps"].every((name) => String(link.get(name)?.split(",").map(Number)) === String(best[name]));
  };
  // The exact numbers, which lie between a slider's steps. A slider's late answer may undo them: then once more.
  const settle = (tries = 15, seen = 0) => {
    unfinished = tries > 0 && seen < 3;
    if (!unfinished) return;
    if (!there()) press("#best");
    timers.push(setTimeout(() => settle(tries - 1, there() ? seen + 1 : 0), 1000));
  };
  const set = (slider, value) => {
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const travel = (moves, pause, most) => {
    const best = goal();
    stop();
    if (!best) return;
    if (document.querySelector("#shape input:checked")?.value !== best.shape) return settle();
    const pairs = ["c_x", "c_eps"].flatMap((name) => {
      const sliders = [...document.querySelectorAll(`.sliders.${name} input[type=range]`)].filter((s) => s.checkVisibility());
      return sliders.map((slider, index) => [slider, best[name][index] ?? 1]).slice(0, most);
    });
    unfinished = true;
    for (let move = 0; move <= moves; move++) {
      const part = move / moves, go = () => pairs.forEach(([slider, to]) => set(slider, 1 + (to - 1) * part));
      move ? timers.push(setTimeout(go, move * pause)) : go();
    }
    timers.push(setTimeout(settle, moves * pause + 500));
  };
  const leave = () => {
    stop();
    if (unfinished) settle();
  };

  // --- the light: a veil with a hole for each lit part, and the sentence below it ------------------------------------
  let at = -1, on = false, drawn = "";
  const veil = document.createElement("div"), line = document.createElement("div");
  veil.id = "tour-veil";
  line.id = "tour-line";
  line.setAttribute("role", "status");
  const shown = (selector) => [...document.querySelectorAll(selector)].filter((part) => part.checkVisibility());
  const stations = () => STATIONS.filter(({ lit }) => shown(lit[0]).length);
  const parts = () => STATIONS[at].lit.flatMap(shown);
  const hole = ({ left, top, width, height }, pad, r = 16) =>
    `M${left - pad + r} ${top - pad}h${width + 2 * (pad - r)}a${r} ${r} 0 0 1 ${r} ${r}v${height + 2 * (pad - r)}a${r} ${r} 0 0 1 ${-r} ${r}` +
    `h${-width - 2 * (pad - r)}a${r} ${r} 0 0 1 ${-r} ${-r}v${-height - 2 * (pad - r)}a${r} ${r} 0 0 1 ${r} ${-r}z`;
  const follow = () => {
    if (!on) return;
    const holes = parts().map((part) => hole(part.getBoundingClientRect(), getComputedStyle(part).position === "fixed" ? 0 : 8));
    const path = `M0 0H${innerWidth}V${innerHeight}H0Z${holes.join("")}`;
    if (path !== drawn) veil.style.clipPath = `path(evenodd, "${(drawn = path)}")`;
    const said = STATIONS[at].say(); // the numbers in it change with what is shown
    if (line.firstChild.innerHTML !== said) line.firstChild.innerHTML = said;
  };
  setInterval(follow, 100); // images and captions come when they come
  for (const name of ["scroll", "resize"]) addEventListener(name, () => follow(), { passive: true });
  const aim = () => {
    const found = parts().map((part) => part.getBoundingClientRect()), top = Math.min(...found.map((box) => box.top)), bottom = Math.max(...found.map((box) => box.bottom));
    const room = innerHeight - (on ? line.offsetHeight : 0);
    scrollBy({ top: top - Math.max(12, (room - bottom + top) / 2), behavior: "instant" });
  };
  const show = (station) => {
    leave();
    delete document.body.dataset.code;
    document.querySelector("#tabs [role=tab]")?.click();
    at = STATIONS.indexOf(station);
    document.body.dataset.station = station.name;
    document.body.append(veil, line);
    const all = stations();
    line.innerHTML = `<p></p><span>${all.indexOf(station) + 1} / ${all.length}</span>`;
    on = true;
    follow();
    aim();
    follow();
    station.act?.();
  };
  const end = () => {
    leave();
    on = false;
    drawn = "";
    delete document.body.dataset.station;
    veil.remove();
    line.remove();
    aim();
  };
  const step = (by) => {
    const all = stations(), now = all.findIndex((station) => STATIONS.indexOf(station) >= at);
    if (!on && by < 0) return at >= 0 && show(all[now] ?? all.at(-1)); // back into the station that was left
    const next = at < 0 ? (by > 0 ? all[0] : undefined) : all[(now < 0 ? all.length : now) + by];
    if (next) show(next);
  };

  // The opening state: the address without the settings, in the colours that are shown; only where somebody answers.
  const reset = async () => {
    const opening = `${location.pathname}?__theme=${document.body.classList.contains("dark") ? "dark" : "light"}`;
    if ((await fetch(opening, { cache: "no-store" }).catch(() => null))?.ok) location.replace(opening);
  };

  // The code of the address, for the phones of the audience.
  const code = () => document.body.toggleAttribute("data-code");
  const close = () => (document.body.hasAttribute("data-code") ? code() : on && end());

  const KEYS = {
    ArrowRight: () => step(1), PageDown: () => step(1), ArrowLeft: () => step(-1), PageUp: () => step(-1),
    Escape: close, q: code, Q: code, r: reset, R: reset,
  };
  // A widget that has the focus keeps its keys; but what a mouse has chosen does not keep those of a clicker, and a text
  // that is finished by Enter or Escape lets go.
  let mouse = false;
  const belongs = ({ target, key }) => {
    if (!target.closest?.("input, textarea, select, [contenteditable=true], [role=listbox]")) return false;
    if (["range", "radio", "checkbox"].includes(target.type) && key === "Escape") return false; // it means nothing to them
    return !(mouse && target.tagName === "INPUT" && target.ariaExpanded !== "true" && key.startsWith("Page"));
  };
  const takeOver = () => (stop(), (unfinished = false));
  document.addEventListener("pointerdown", () => ((mouse = true), takeOver()), true);
  document.addEventListener("keydown", (event) => {
    const { key, target } = event, act = KEYS[key];
    if (key === "Tab") mouse = false;
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (belongs(event)) takeOver();
    if (belongs(event)) return ["Enter", "Escape"].includes(key) && !event.shiftKey && setTimeout(() => target.blur());
    if (!act || document.querySelector(".shown.fullscreen")) return; // its Escape is gradio's
    event.preventDefault();
    if (!event.repeat) act();
  });
})();
