// The crosshair on the surface, the link, and the colour scheme: all that needs no server.
window.qsched = (() => {
  let point = null;

  // Acts when nothing has asked for it again for so long.
  const resting = (milliseconds, act) => {
    let timer;
    const ask = () => {
      clearTimeout(timer);
      timer = setTimeout(() => act(ask), milliseconds);
    };
    return ask;
  };

  const along = (axis, value) => {
    const last = axis.length - 1;
    if (last < 1) return 0;
    let i = axis.findIndex((v) => v > value) - 1;
    if (i === -2) i = last - 1;
    i = Math.min(Math.max(i, 0), last - 1);
    return Math.min(Math.max(i + (value - axis[i]) / (axis[i + 1] - axis[i]), -0.5), last + 0.5);
  };

  // Numbers to one per step, as qsched.schedulers.expand does it: one for all, a straight line between two, or all of them.
  const along_steps = (numbers, steps) => {
    const [first, last] = numbers;
    if (numbers.length === steps || steps === 1) return numbers.slice(0, steps);
    return Array.from({ length: steps }, (_, step) => first + ((last ?? first) - first) * (step / (steps - 1)));
  };

  // The crosshair over the map's cells, by the template's own percentages.
  const draw = () => {
    const map = document.querySelector("#surface .map"), legend = document.querySelector("#legend");
    if (!map || !point) return;
    const { c_x, c_eps, rest, steps } = JSON.parse(map.dataset.surface);
    map.style.setProperty("--x", `${(100 * (along(c_x, point.c_x) + 0.5)) / c_x.length}%`);
    map.style.setProperty("--y", `${100 - (100 * (along(c_eps, point.c_eps) + 0.5)) / c_eps.length}%`);
    const within = (axis, value) => axis[0] <= value && value <= axis.at(-1);
    const here = within(c_x, point.c_x) && within(c_eps, point.c_eps) && ["c_x", "c_eps"].every((name, at) => {
      const there = along_steps(rest[at] ? [point[name], ...rest[at]] : [point[name]], steps);
      return point.rows[at].every((value, step) => Math.abs(value - there[step]) < 2e-4);
    });
    map.dataset.elsewhere = legend.dataset.elsewhere = String(!here);
    follow();
  };

  // A map around the point follows where one is quick, once for each point, when the hand has rested.
  let followed;
  const follow = resting(1200, (again) => {
    const place = JSON.stringify(point.rows);
    if (!document.querySelector("#legend[data-elsewhere=true] [data-follows]") || place === followed) return;
    if (pressed || document.body.classList.contains("busy")) return again();
    followed = place;
    document.querySelector("#around")?.click();
  });

  // What lies under the pointer: numbers that the server sent along with the image.
  const signed = (value) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(3);
  const span = (low, high, write) => (low === null ? "" : ` [${write(low)}, ${write(high)}]`);
  const tooltip = (map, event) => {
    const tip = map.querySelector("#cell");
    const { size, box, c_x, c_eps, k, jaq, interval, difference, different } = JSON.parse(map.dataset.surface);
    const frame = map.getBoundingClientRect(), unit = frame.width / size[0];
    const x = (event.clientX - frame.left) / unit - box[0], y = (event.clientY - frame.top) / unit - box[1];
    tip.hidden = event.type === "mouseleave" || x < 0 || y < 0 || x >= box[2] || y >= box[3];
    if (tip.hidden) return;
    const j = Math.floor((x * c_x.length) / box[2]), i = c_eps.length - 1 - Math.floor((y * c_eps.length) / box[3]);
    const cell = i * c_x.length + j, plain = (value) => value.toFixed(3);
    const lines = [`c_x ${c_x[j]}, c_\u03b5 ${c_eps[i]}`];
    if (jaq[cell] === null) lines.push("no score");
    else {
      lines.push(`JAQ ${plain(jaq[cell])}${interval ? span(interval[0][cell], interval[1][cell], plain) : ""}, k = ${k}`);
      if (difference) {
        lines.push(`${signed(difference[0][cell])}${span(difference[1][cell], difference[2][cell], signed)} against plain`);
        lines.push(different[cell] ? "different from plain" : "not different from plain");
      }
    }
    tip.replaceChildren(...lines.map((line) => Object.assign(document.createElement("span"), { textContent: line })));
    tip.style.left = `${Math.max(0, Math.min(event.clientX - frame.left - tip.offsetWidth / 2, frame.width - tip.offsetWidth))}px`;
    // below the cells, to hide none; above them where the window ends
    const below = (box[1] + box[3]) * unit + 8, above = box[1] * unit - tip.offsetHeight - 8;
    tip.style.top = `${frame.top + below + tip.offsetHeight > innerHeight ? above : below}px`;
  };

  const map = (element, trigger, watch) => {
    const at = (event) => event.target.closest?.(".map");
    for (const name of ["mousemove", "mouseleave"])
      element.addEventListener(name, (event) => at(event) && tooltip(at(event), event), true);
    element.addEventListener("click", (event) => {
      const map = at(event), frame = map?.getBoundingClientRect();
      if (!map) return;
      const unit = frame.width / JSON.parse(map.dataset.surface).size[0];
      trigger("select", { index: [(event.clientX - frame.left) / unit, (event.clientY - frame.top) / unit] });
    });
    watch("value", draw);
  };

  // From an event that makes all images anew to its answer; then the toast that announced long work goes too.
  let begun = 0, took = 0;
  const busy = () => {
    document.body.classList.add("busy");
    begun = performance.now();
  };
  const idle = () => {
    document.body.classList.remove("busy");
    took = performance.now() - begun;
    document.querySelectorAll(".toast-close.info").forEach((button) => button.click());
  };

  // What is typed is drawn when the hand rests, where that is quick and nobody is in front; Enter does it anywhere.
  const typed = resting(500, (again) => {
    const prompt = document.querySelector("#prompt textarea").value.trim();
    const shown = new URLSearchParams(document.querySelector("#state [data-version]")?.dataset.link).get("prompt");
    if (document.body.classList.contains("busy")) return again();
    if (prompt && prompt !== shown && took < document.querySelector("[data-quick]")?.dataset.quick)
      document.querySelector("#generate").click();
  });
  document.addEventListener("input", (event) => event.isTrusted && event.target.closest?.("#prompt") && typed());

  // The wipe shows the images above it: when one of them changes, so does its side, without asking the server.
  const names = { "Full precision": "full-precision", Naive: "naive", "Q-Sched": "qsched" };
  const sync = () => {
    const sides = document.querySelectorAll("#wipe img");
    ["left", "right"].forEach((side, index) => {
      const title = document.querySelector(`#wipe-${side} input`)?.value, name = names[title];
      const source = name && document.querySelector(`#image-${name} img`)?.src;
      if (source && sides[index] && sides[index].src !== source) sides[index].src = source;
      if (sides[index]) sides[index].alt = title;
    });
  };

  // A draft is drawn by the full decoder when no other has come for a moment; a lent GPU is asked for when the hand lets go.
  let pressed = false;
  for (const name of ["pointerdown", "pointerup", "pointercancel"])
    document.addEventListener(name, () => (pressed = name === "pointerdown"), true);
  const rest = resting(300, (again) => {
    const draft = document.querySelector("[data-draft]");
    if (pressed && draft?.dataset.draft === "lent") again();
    else if (draft) document.querySelector("#refine")?.click();
  });
  const cards = new MutationObserver(() => (sync(), rest()));

  // Gradio counts whoever is ahead in the queue, and leaves out the one that is served; an event that need not wait
  // stands there for a moment too, so the style sheet shows this late.
  const place = new MutationObserver(() => {
    const text = document.querySelector("#waiting p"), ahead = /queue: (\d+)/.exec(document.querySelector("#waiting .wrap")?.textContent);
    const say = ahead ? `waiting: ${ahead[1]} before you` : "";
    if (text && text.textContent !== say) text.textContent = say;
  });

  const mark = (shape, ...sliders) => {
    const data = document.querySelector("#surface .map")?.dataset.surface, steps = data ? JSON.parse(data).steps : 1;
    const kept = { constant: (row) => row.slice(0, 1), ramp: ([first]) => [first, 1], ends: (row) => row.slice(0, 2) }[shape];
    const rows = [sliders.slice(0, sliders.length / 2), sliders.slice(sliders.length / 2)].map((row) => row.map(Number));
    point = { c_x: rows[0][0], c_eps: rows[1][0], rows: rows.map((row) => along_steps(kept ? kept(row) : row.slice(0, steps), steps)) };
    cards.observe(document.querySelector(".q-main"), { subtree: true, attributeFilter: ["src"] });
    place.observe(document.querySelector("#waiting"), { subtree: true, childList: true, characterData: true });
    draw();
  };

  const copy = async (text, selector, otherwise = "Select it and copy") => {
    const button = document.querySelector(selector), name = button.dataset.name ?? (button.dataset.name = button.textContent);
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = otherwise; // no clipboard without https
    }
    setTimeout(() => (button.textContent = name), 1600);
  };

  const HUB = "https://huggingface.co";

  // Every answer says which state of the session it shows. The address is that of the newest; when an older answer comes
  // after a newer one, the page asks for the newest again.
  let newest = 0;
  const arrived = () => {
    const state = document.querySelector("#state [data-version]");
    if (!state) return;
    const version = Number(state.dataset.version);
    if (version === newest) return;
    if (version < newest && state.dataset.final === undefined) return document.querySelector("#sync")?.click();
    newest = version;
    history.replaceState(null, "", address(state));
    // the Hub shows a Space in a frame, and keeps the address that a reload or a link has
    if (parent !== window && (location.ancestorOrigins?.[0] ?? document.referrer).startsWith(HUB))
      parent.postMessage({ queryString: state.dataset.link }, HUB);
  };
  // gradio's own keys, such as __theme, stay
  const address = (state) => {
    const own = [...new URLSearchParams(location.search)].filter(([name]) => name.startsWith("__"));
    return `${location.pathname}?${new URLSearchParams([...new URLSearchParams(state.dataset.link), ...own])}`;
  };
  new MutationObserver(arrived).observe(document.body ?? document.documentElement, { subtree: true, childList: true });

  const share = async () => {
    const state = document.querySelector("#state [data-version]");
    await copy(location.origin + address(state), "#share", "In the address bar");
  };

  document.addEventListener("load", (event) => event.target.closest?.("#wipe") && sync(), true); // it has no texts of its own

  // The steps of the path, one after the other in the large images; an image that the server changes meanwhile stays.
  let playing;
  const play = () => {
    playing?.end();
    const images = [...document.querySelectorAll(".q-images .shown img")], ends = images.map((image) => image.src);
    const rows = ["full-precision", "naive", "qsched"].map((key) => [...document.querySelectorAll(`[data-path="${key}"]`)]);
    const ours = new Set(rows.flat().map((image) => image.src)), steps = rows[0].length;
    let step = -1;
    const end = () => {
      document.querySelectorAll("#path .now").forEach((image) => image.classList.remove("now"));
      images.forEach((image, index) => ours.has(image.src) && (image.src = ends[index]));
      clearInterval(playing.timer);
      playing = undefined;
    };
    const next = () => {
      if (++step >= steps) return end();
      rows.forEach((row, index) => {
        row.forEach((image, at) => image.classList.toggle("now", at === step));
        if (images[index] && (ours.has(images[index].src) || images[index].src === ends[index])) images[index].src = row[step].src;
      });
    };
    playing = { timer: setInterval(next, 900), end };
    next();
  };

  const toggleDark = () => document.body.classList.toggle("dark");

  return { busy, idle, map, mark, copy, share, play, toggleDark, rest };
})();
