"use strict";

// Shows what the page's data states: which state is chosen, its routes, a path, a step of a run.
// It compares numbers and shows texts. What a state may do, where a request leads and what a step
// changes is all in the data, which vfio-migration has computed.

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const all = (selector, where) => [...(where || document).querySelectorAll(selector)];
  const make = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };

  // What is shown. `run` is the identifier of an obligation, and `step` one of its steps.
  const view = { set: 0, from: null, to: null, run: null, step: 0 };
  let setBefore = 0;

  const pictures = all("figure[data-set]").map((figure) => ({
    figure,
    states: new Map(all("[data-index]", figure).map((one) => [Number(one.dataset.index), one])),
    edges: new Map(all("[data-edge]", figure).map((one) => [Number(one.dataset.edge), one])),
  }));
  const rows = all("article[data-state]");
  const examples = new Map(
    all("[data-run]").map((button) => [button.dataset.run, button.closest("article")]),
  );

  // An article is beside the picture while its run is stepped through, and has a mark at its place.
  const homes = new Map();
  for (const article of examples.values()) {
    homes.set(article, document.createComment(""));
    article.after(homes.get(article));
  }

  // --- what is drawn over a picture ---

  const NAMES = ["from", "to", "on", "now", "was", "taken", "failed"];

  function clear(picture) {
    for (const one of [...picture.states.values(), ...picture.edges.values()]) {
      one.classList.remove(...NAMES);
      if (one.hasAttribute("role")) one.setAttribute("aria-pressed", "false");
    }
    all(".mark", picture.figure).forEach((one) => one.remove());
    picture.figure.classList.remove("dim");
  }

  // A round mark with a few characters; `x` and `y` in the units of the picture.
  function mark(parent, x, y, text, name) {
    const space = "http://www.w3.org/2000/svg";
    const group = document.createElementNS(space, "g");
    group.setAttribute("class", `mark ${name}`);
    group.setAttribute("aria-hidden", "true");
    const shape = document.createElementNS(space, "rect");
    const width = 12 + 7 * text.length;
    for (const [key, value] of Object.entries({ x: x - width / 2, y: y - 9, width, height: 18, rx: 9 }))
      shape.setAttribute(key, value);
    const label = document.createElementNS(space, "text");
    label.setAttribute("x", x);
    label.setAttribute("y", y + 3.5);
    label.setAttribute("text-anchor", "middle");
    label.textContent = text;
    group.append(shape, label);
    parent.append(group);
  }

  function markEdge(picture, edge, text, name) {
    const drawn = picture.edges.get(edge);
    if (!drawn) return;
    drawn.classList.add(...name.split(" "));
    const line = drawn.querySelector("path");
    if (!line || !text) return;
    const middle = line.getPointAtLength(line.getTotalLength() * 0.45);
    mark(drawn.parentNode, middle.x, middle.y, text, name.includes("failed") ? "failed" : "on");
  }

  function markState(picture, state, name, text, place) {
    const drawn = picture.states.get(state);
    if (!drawn) return;
    drawn.classList.add(name);
    drawn.setAttribute("aria-pressed", "true");
    if (text === undefined) return;
    const box = drawn.getBBox();
    mark(drawn.parentNode, box.x + box.width - 10 - 24 * place, box.y, text, "device");
  }

  // A step that no line of the picture is for: a dashed line behind the states, and its number.
  function markJump(picture, before, after, text, name) {
    const [from, to] = [before, after].map((state) => picture.states.get(state));
    if (!from || !to) return;
    const [a, b] = [from, to].map((one) => {
      const box = one.getBBox();
      return [box.x + box.width / 2, box.y + box.height / 2];
    });
    if (from === to) {
      mark(to.parentNode, b[0] - to.getBBox().width / 2 + 12, b[1] - to.getBBox().height / 2, text, name);
      return;
    }
    const space = "http://www.w3.org/2000/svg";
    const line = document.createElementNS(space, "path");
    line.setAttribute("d", `M${a[0]},${a[1]}L${b[0]},${b[1]}`);
    line.setAttribute("class", `mark jump ${name}`);
    line.setAttribute("aria-hidden", "true");
    to.parentNode.insertBefore(line, picture.states.values().next().value);
    mark(to.parentNode, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2, text, name);
  }

  // --- texts ---

  const nameOf = (state) => data.states[state];

  function pathOf(cell, from) {
    return [from, ...cell.map((edge) => data.sets[view.set].edges[edge].to)].map(nameOf).join(" → ");
  }

  function inOneLine(cell, from) {
    if (!Array.isArray(cell))
      return "wrong" in cell ? cell.wrong : data.refusals[cell.refused].text;
    return cell.length ? pathOf(cell, from) : data.nothing;
  }

  function answer(from, to) {
    const cell = data.sets[view.set].routes[from][to];
    const parts = [make("h3", `${nameOf(from)} → ${nameOf(to)}`)];
    if (!Array.isArray(cell)) {
      parts.push(make("p", inOneLine(cell, from), "refused"));
      if ("refused" in cell) parts.push(make("p", data.refusals[cell.refused].source, "source"));
    } else if (!cell.length) {
      parts.push(make("p", data.nothing));
    } else {
      const list = make("ol");
      for (const index of cell) {
        const edge = data.sets[view.set].edges[index];
        const item = make("li");
        item.append(
          make("b", `${nameOf(edge.from)} → ${nameOf(edge.to)}`),
          `: ${edge.summary} `,
          make("small", `${edge.kind}; ${edge.source}`, "source"),
        );
        list.append(item);
      }
      parts.push(list);
    }
    return parts;
  }

  function routes(from) {
    const table = make("table");
    table.append(make("caption", `What can be asked for in ${nameOf(from)}`));
    const body = make("tbody");
    data.sets[view.set].routes[from].forEach((cell, to) => {
      const row = make("tr", undefined, Array.isArray(cell) ? "" : "refused");
      const head = make("th");
      head.scope = "row";
      const button = make("button", nameOf(to));
      button.type = "button";
      button.dataset.to = to;
      head.append(button);
      row.append(head, make("td", inOneLine(cell, from)));
      body.append(row);
    });
    table.append(body);
    return table;
  }

  // --- showing ---

  function show() {
    const run = view.run === null ? null : data.runs[view.run];
    const shown = run ? new Set(run.devices.map((one) => one.set)) : new Set([view.set]);
    pictures.forEach((picture, index) => {
      picture.figure.hidden = !shown.has(index);
      clear(picture);
      const svg = picture.figure.querySelector("svg");
      svg.setAttribute("viewBox", view.run === null ? svg.dataset.whole : svg.dataset.short);
    });
    document.documentElement.classList.toggle("stepping", view.run !== null);
    find("panel").classList.toggle("empty", view.run === null && view.from === null);
    find("pictures").classList.toggle("several", shown.size > 1);
    find("choose-set").value = view.set;
    find("choose-from").value = view.from === null ? "" : view.from;
    find("choose-to").value = view.to === null ? "" : view.to;
    find("run").hidden = view.run === null;
    find("answer").replaceChildren();
    find("routes").replaceChildren();
    rows.forEach((row) => (row.hidden = true));
    for (const [name, article] of examples)
      all("li", article).forEach((item, index) => {
        if (name === view.run && index === view.step) item.setAttribute("aria-current", "step");
        else item.removeAttribute("aria-current");
      });
    all("article", find("run-list")).forEach((article) => {
      if (article !== examples.get(view.run)) homes.get(article).before(article);
    });
    if (view.run !== null) showStep(run);
    else showChoice();
  }

  function showChoice() {
    if (view.from === null) {
      find("answer").append(make("p", "Nothing is chosen: click a state of the picture.", "hint"));
      return;
    }
    const picture = pictures[view.set];
    markState(picture, view.from, "from");
    rows[view.from].hidden = view.to !== null;
    const known = data.sets[view.set].routes[view.from];
    if (!known) {
      const text = `A device with ${data.sets[view.set].name} is never in ${nameOf(view.from)}.`;
      find("answer").append(make("p", text, "refused"));
      return;
    }
    if (view.to !== null) {
      const cell = known[view.to];
      markState(picture, view.to, "to");
      picture.figure.classList.add("dim");
      find("answer").append(...answer(view.from, view.to));
      if (Array.isArray(cell))
        cell.forEach((edge, index) => {
          markEdge(picture, edge, String(index + 1), "on");
          markState(picture, data.sets[view.set].edges[edge].to, "on");
        });
      else if (cell.edge !== null) markEdge(picture, cell.edge, "×", "on failed");
    }
    find("routes").append(routes(view.from));
  }

  function showStep(run) {
    const article = examples.get(view.run);
    if (!find("run-list").contains(article)) find("run-list").append(article);
    const item = all("li", article)[view.step];
    const last = all("li", article).length - 1;
    const now = find("run-now");
    now.replaceChildren(make("p", `Step ${view.step} of ${last}`, "count"));
    const what = item.querySelector(".what");
    now.append(make("p", (what || item).textContent, item.classList.contains("failed") ? "failed" : ""));
    const changed = item.querySelector(".changed");
    if (view.step) now.append(make("p", `Changed: ${changed ? changed.textContent : "nothing"}`, "changed"));
    find("run-first").disabled = find("run-back").disabled = view.step === 0;
    find("run-forward").disabled = find("run-last").disabled = view.step === last;
    if (!run) {
      now.append(make("p", "There is no picture of the capabilities of this run.", "hint"));
      return;
    }
    const several = run.devices.length > 1;
    const step = run.steps[view.step];
    const list = make("ul", undefined, "devices");
    const count = new Map();
    run.devices.forEach((device, index) => {
      const session = step.sessions[index];
      const open = session === null ? "" : `, session ${session} open`;
      const item = make("li");
      if (several) item.append(make("span", String(index), "token"), ` ${device.name}: `);
      item.append(`${nameOf(step.at[index])}${open}`);
      list.append(item);
      const picture = pictures[device.set];
      const key = `${device.set} ${step.at[index]}`;
      const place = count.get(key) || 0;
      count.set(key, place + 1);
      picture.figure.classList.add("dim");
      run.steps.slice(1, view.step + 1).forEach((earlier, count) => {
        if (earlier.device !== index || earlier.edge === undefined || earlier.edge === null) return;
        const isNow = count + 1 === view.step;
        const name = `${isNow ? "on" : "taken"}${earlier.failed && isNow ? " failed" : ""}`;
        markEdge(picture, earlier.edge, isNow ? String(view.step) : "", name);
      });
      const before = view.step ? run.steps[view.step - 1].at[index] : step.at[index];
      if (before !== step.at[index]) markState(picture, before, "was");
      if (step.device === index && step.edge === null && (step.failed || before !== step.at[index]))
        markJump(picture, before, step.at[index], String(view.step), step.failed ? "failed" : "on");
      markState(picture, step.at[index], "now", several ? String(index) : undefined, place);
      if (step.failed && step.device === index)
        markState(picture, step.at[index], "failed");
    });
    now.append(list);
  }

  // On a narrow screen a picture is wider than the page, and two are not in sight at once: show
  // where it happens.
  function bringIntoSight() {
    const run = view.run === null ? null : data.runs[view.run];
    const device = run && run.steps[view.step].device;
    if (Number.isInteger(device))
      pictures[run.devices[device].set].figure.scrollIntoView({ block: "nearest" });
    for (const picture of pictures) {
      const box = picture.figure.querySelector(".scroll");
      const drawn = [".now", ".to", ".from"].map((one) => box.querySelector(one)).find(Boolean);
      if (picture.figure.hidden || !drawn || box.scrollWidth <= box.clientWidth) continue;
      const there = drawn.getBoundingClientRect();
      const here = box.getBoundingClientRect();
      box.scrollLeft += there.left + there.width / 2 - (here.left + here.width / 2);
    }
  }

  // --- what a reader does ---

  function choose(from, to) {
    Object.assign(view, { from, to, run: null });
    show();
    bringIntoSight();
  }

  function press(state) {
    if (view.run !== null || view.from === null || view.to !== null) choose(state, null);
    else if (state === view.from) choose(null, null);
    else choose(view.from, state);
  }

  function goTo(step) {
    const last = all("li", examples.get(view.run)).length - 1;
    view.step = Math.max(0, Math.min(last, step));
    show();
    bringIntoSight();
  }

  function open(run) {
    if (view.run === null) setBefore = view.set;
    Object.assign(view, { run, step: 0, from: null, to: null });
    const known = data.runs[run];
    if (known) view.set = known.devices[0].set;
    show();
    bringIntoSight();
    find("two").scrollIntoView();
    find("run-forward").focus({ preventScroll: true });
  }

  function close() {
    const run = view.run;
    view.set = setBefore;
    choose(null, null);
    if (run === null) return;
    const button = examples.get(run).querySelector("[data-run]");
    button.scrollIntoView({ block: "center" });
    button.focus({ preventScroll: true });
  }

  // The state next to another one in a direction, as it is drawn.
  function beside(picture, state, [dx, dy]) {
    const middle = (one) => {
      const box = one.getBoundingClientRect();
      return [box.left + box.width / 2, box.top + box.height / 2];
    };
    const [x, y] = middle(state);
    let best = null;
    let least = Infinity;
    for (const one of picture.states.values()) {
      const [ox, oy] = middle(one);
      const ahead = (ox - x) * dx + (oy - y) * dy;
      const aside = Math.abs((ox - x) * dy) + Math.abs((oy - y) * dx);
      const far = ahead + 3 * aside;
      if (one !== state && ahead > 1 && far < least) [best, least] = [one, far];
    }
    return best;
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  for (const picture of pictures)
    for (const [state, drawn] of picture.states) {
      drawn.addEventListener("click", () => press(state));
      drawn.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") press(state);
        else if (ARROWS[event.key]) {
          const next = beside(picture, drawn, ARROWS[event.key]);
          if (next) next.focus();
        } else return;
        event.preventDefault();
        event.stopPropagation();
      });
    }

  const chosen = (id) => (find(id).value === "" ? null : Number(find(id).value));
  find("choose-set").addEventListener("change", () => {
    view.set = chosen("choose-set");
    choose(view.from, view.to);
  });
  for (const id of ["choose-from", "choose-to"])
    find(id).addEventListener("change", () => choose(chosen("choose-from"), chosen("choose-to")));
  find("clear").addEventListener("click", () => choose(null, null));
  find("routes").addEventListener("click", (event) => {
    const button = event.target.closest("[data-to]");
    if (!button) return;
    const to = Number(button.dataset.to);
    choose(view.from, to);
    find("routes").querySelector(`[data-to="${to}"]`).focus();
  });
  for (const button of all("[data-run]")) button.addEventListener("click", () => open(button.dataset.run));
  find("run-first").addEventListener("click", () => goTo(0));
  find("run-back").addEventListener("click", () => goTo(view.step - 1));
  find("run-forward").addEventListener("click", () => goTo(view.step + 1));
  find("run-last").addEventListener("click", () => goTo(Infinity));
  find("run-close").addEventListener("click", close);
  document.addEventListener("keydown", (event) => {
    const isTyped = ["SELECT", "INPUT"].includes(event.target.tagName);
    if (isTyped || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") {
      if (view.run === null) choose(null, null);
      else close();
    } else if (view.run !== null && event.key === "ArrowRight") goTo(view.step + 1);
    else if (view.run !== null && event.key === "ArrowLeft") goTo(view.step - 1);
    else return;
    event.preventDefault();
  });

  all(".scripted").forEach((one) => (one.hidden = false));
  show();
})();
