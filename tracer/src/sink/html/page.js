"use strict";
// All is there without this: it only sorts, filters and magnifies. It loads nothing, and makes no text into elements.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Tables sort by a click on the head of a column.
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => {
          const cell = row.cells[column];
          return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
        };
        const rows = all("tbody tr", table).map((row) => [value(row), row]);
        rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1));
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  }

  // A filter by name or number, for the table of tasks and the rows of the timeline.
  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    let count = 0;
    for (const row of all("[data-task]")) {
      row.hidden = !row.dataset.task.toLowerCase().includes(wanted);
      count += row.matches("tr") && !row.hidden ? 1 : 0;
    }
    shown.textContent = wanted === "" ? "" : `${count} tasks`;
  });

  // The timeline: all lanes show the same part of the time.
  const timeline = document.getElementById("timeline");
  const range = document.getElementById("range");
  const length = Number(timeline.dataset.ns);
  const lanes = all("svg.lane", timeline);
  const WIDTH = 1000;
  let from = 0;
  let to = WIDTH;
  const time = (place) => {
    const ms = (place / WIDTH) * length / 1e6;
    return to - from < WIDTH / 100 ? `${ms.toFixed(4)} ms` : `${ms.toFixed(2)} ms`;
  };
  const show = (a, b) => {
    const width = Math.min(WIDTH, Math.max(b - a, WIDTH / 1e6));
    from = Math.min(Math.max(0, a), WIDTH - width);
    to = from + width;
    for (const lane of lanes) {
      lane.setAttribute("viewBox", `${from} 0 ${to - from} 20`);
    }
    range.textContent = `${time(from)} to ${time(to)}`;
  };
  const magnify = (factor, center = (from + to) / 2) =>
    show(center - (center - from) / factor, center + (to - center) / factor);
  const actions = {
    in: () => magnify(2),
    out: () => magnify(0.5),
    left: () => show(from - (to - from) / 2, to - (to - from) / 2),
    right: () => show(from + (to - from) / 2, to + (to - from) / 2),
    whole: () => show(0, WIDTH),
  };
  for (const button of all("button[data-do]", timeline)) {
    button.addEventListener("click", actions[button.dataset.do]);
  }
  timeline.addEventListener("wheel", (event) => {
    const lane = event.target.closest("svg.lane");
    if (lane === null || !event.ctrlKey) {
      return;
    }
    event.preventDefault();
    const box = lane.getBoundingClientRect();
    magnify(event.deltaY < 0 ? 1.25 : 0.8, from + ((event.clientX - box.left) / box.width) * (to - from));
  }, { passive: false });
  show(0, WIDTH);

  // What is pointed at is told in the corner, at once.
  const tip = document.getElementById("tip");
  document.addEventListener("pointerover", (event) => {
    const title = event.target.closest?.("svg rect")?.querySelector("title");
    tip.textContent = title ? title.textContent : "";
  });
  for (const tools of all(".tools[hidden]")) {
    tools.hidden = false;
  }
})();
