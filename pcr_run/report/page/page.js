
"use strict";
(() => {
  const { runs, transcripts } = JSON.parse(document.getElementById("data").textContent);
  const COLUMNS = ["run", "task", "step", "verdict", "reward", "response"];
  const PAGE = 50;
  const form = document.getElementById("filters"), table = document.getElementById("responses");
  const body = table.tBodies[0], count = document.getElementById("count"), more = document.getElementById("more");
  let order = { column: "step", down: false }, chosen = [], shown = 0;

  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const value = (entry, column) => column === "run" ? runs[entry.run] : entry[column];
  const line = (text) => text.slice(0, 300).replace(/\s+/g, " ");

  transcripts.forEach((entry) => {
    entry.all = [entry.prompt, entry.response, entry.item, entry.detail].join("\n").toLowerCase();
  });

  for (const column of ["run", "task", "verdict"]) {
    const values = column === "run" ? [...new Set(transcripts.map((entry) => entry.run))]
      : [...new Set(transcripts.map((entry) => entry[column]))].sort();
    for (const one of values) {
      const option = element("option", column === "run" ? runs[one] : one);
      option.value = String(one);
      form.elements[column].append(option);
    }
  }

  const heads = COLUMNS.map((column) => {
    const head = element("th", undefined, column === "run" || column === "task" ? "aside" : "");
    const button = element("button", column);
    head.scope = "col";
    button.type = "button";
    button.addEventListener("click", () => {
      order = { column, down: order.column === column && !order.down };
      update();
    });
    head.append(button);
    table.tHead.rows[0].append(head);
    return head;
  });

  const compare = (a, b) => {
    const x = value(a, order.column), y = value(b, order.column);
    if (x === y) return 0;
    if (x === null || y === null) return x === null ? 1 : -1;
    const result = typeof x === "number" ? x - y : String(x).localeCompare(String(y));
    return order.down ? -result : result;
  };

  const within = (number, low, high) =>
    (low === "" || (number !== null && number >= Number(low))) && (high === "" || (number !== null && number <= Number(high)));

  const update = () => {
    const f = Object.fromEntries(new FormData(form)), text = f.text.toLowerCase();
    chosen = transcripts.filter((entry) =>
      (f.run === "" || String(entry.run) === f.run) && (f.task === "" || entry.task === f.task)
      && (f.verdict === "" || entry.verdict === f.verdict) && within(entry.step, f.first, f.last)
      && within(entry.reward, f.low, f.high) && (text === "" || entry.all.includes(text)));
    chosen.sort(compare);
    heads.forEach((head, i) => head.setAttribute("aria-sort",
      COLUMNS[i] !== order.column ? "none" : order.down ? "descending" : "ascending"));
    body.replaceChildren();
    shown = 0;
    extend();
  };

  const extend = () => {
    body.append(...chosen.slice(shown, shown + PAGE).map(row));
    shown = Math.min(shown + PAGE, chosen.length);
    more.hidden = shown === chosen.length;
    count.textContent = `${chosen.length} of ${transcripts.length} transcripts` + (more.hidden ? "" : `, the first ${shown} shown`);
  };

  const row = (entry) => {
    const made = element("tr", undefined, "row");
    made.tabIndex = 0;
    for (const column of COLUMNS) {
      const found = value(entry, column), text = column === "response" ? line(found) : String(found ?? "");
      const side = column === "run" || column === "task" ? "short aside" : "short";
      const cell = element("td", text, column === "response" ? "line" : side);
      if (column === "verdict") cell.classList.add(found === "correct" ? "right" : "bad");
      if (column === "run") cell.title = text;
      made.append(cell);
    }
    const toggle = () => {
      if (made.nextSibling && made.nextSibling.className === "open") made.nextSibling.remove();
      else made.after(whole(entry));
    };
    made.addEventListener("click", toggle);
    made.addEventListener("keydown", (event) => {
      if (event.key === "Enter") toggle();
    });
    return made;
  };

  const whole = (entry) => {
    const made = element("tr", undefined, "open"), cell = element("td", undefined, "whole");
    cell.colSpan = COLUMNS.length;
    cell.append(element("h4", `${runs[entry.run]}, step ${entry.step}, ${entry.item}`));
    cell.append(element("h4", "prompt"), element("pre", entry.prompt));
    cell.append(element("h4", `response (ended by ${entry.finish || "?"})`), element("pre", entry.response));
    if (entry.detail) cell.append(element("h4", "detail"), element("pre", entry.detail));
    made.append(cell);
    return made;
  };

  form.addEventListener("input", update);
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", extend);
  update();
})();
