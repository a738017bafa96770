// The crosshair on the surface, the link, and the colour scheme: all that needs no server.
window.qsched = (() => {
  let point = null;

  const along = (axis, value) => {
    const last = axis.length - 1;
    if (last < 1) return 0;
    let i = axis.findIndex((v) => v > value) - 1;
    if (i === -2) i = last - 1;
    i = Math.min(Math.max(i, 0), last - 1);
    return Math.min(Math.max(i + (value - axis[i]) / (axis[i + 1] - axis[i]), -0.5), last + 0.5);
  };

  const draw = () => {
    const holder = document.querySelector("#surface"), image = holder?.querySelector("img");
    const data = document.querySelector("[data-surface]")?.dataset.surface;
    let ring = document.querySelector("#crosshair");
    if (!image || !data || !point) return ring?.remove();
    const { size, box, c_x, c_eps, shape } = JSON.parse(data);
    if (!ring) {
      ring = document.createElement("div");
      ring.id = "crosshair";
      ring.setAttribute("aria-hidden", "true");
      ring.innerHTML = '<b class="across"></b><b class="down"></b><i></i>';
    }
    if (ring.parentElement !== holder) holder.append(ring);
    const outer = holder.getBoundingClientRect(), inner = image.getBoundingClientRect();
    const unit = inner.width / size[0];
    Object.assign(ring.style, {
      left: `${inner.left - outer.left + box[0] * unit}px`, top: `${inner.top - outer.top + box[1] * unit}px`,
      width: `${box[2] * unit}px`, height: `${box[3] * unit}px`,
    });
    ring.style.setProperty("--x", `${(100 * (along(c_x, point.c_x) + 0.5)) / c_x.length}%`);
    ring.style.setProperty("--y", `${100 - (100 * (along(c_eps, point.c_eps) + 0.5)) / c_eps.length}%`);
    ring.dataset.elsewhere = String(point.shape !== shape);
    ring.title = point.shape === shape ? "" : "The surface was computed for another shape.";
  };

  // The wipe shows the pictures above it: when one of them changes, so does its side, without asking the server.
  const names = { "Full precision": "full-precision", Naive: "naive", "Q-Sched": "qsched" };
  const sync = () => {
    const sides = document.querySelectorAll("#wipe img");
    ["left", "right"].forEach((side, index) => {
      const name = names[document.querySelector(`#wipe-${side} input`)?.value];
      const source = name && document.querySelector(`#image-${name} img`)?.src;
      if (source && sides[index] && sides[index].src !== source) sides[index].src = source;
    });
  };
  const pictures = new MutationObserver(sync);

  const watch = new ResizeObserver(draw);
  const mark = (shape, c_x, c_eps) => {
    point = { shape, c_x: Number(c_x), c_eps: Number(c_eps) };
    const holder = document.querySelector("#surface");
    if (holder) watch.observe(holder);
    pictures.observe(document.querySelector(".q-main"), { subtree: true, attributeFilter: ["src"] });
    requestAnimationFrame(draw);
    for (const delay of [120, 400, 1200]) setTimeout(draw, delay); // the picture may still be on its way
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

  const share = async (backbone, bits, prompt, seed, steps, shape, ...sliders) => {
    const half = sliders.length / 2;
    const used = { constant: 1, ramp: 1, ends: 2, "per-step": steps }[shape];
    const numbers = (from) => sliders.slice(from, from + used).join(",");
    const query = new URLSearchParams({ backbone, bits, prompt, seed, steps, shape, c_x: numbers(0), c_eps: numbers(half) });
    const url = `${location.origin}${location.pathname}?${query}`;
    history.replaceState(null, "", url);
    await copy(url, "#share", "In the address bar");
  };

  const toggleDark = () => document.body.classList.toggle("dark");

  return { mark, copy, share, toggleDark };
})();
