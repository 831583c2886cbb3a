"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const views = {};

  // ---- tables: sort by a column, filter by words

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const number = cell.dataset.value;
    return number === undefined ? null : Number(number);
  };

  function sort(table, column, descending) {
    const rows = [...table.tBodies[0].rows];
    const numeric = rows.some((row) => valueOf(row, column) !== null);
    const sign = descending ? -1 : 1;
    rows.sort((a, b) => {
      if (!numeric) {
        return sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent, "en", { numeric: true });
      }
      const [x, y] = [valueOf(a, column), valueOf(b, column)];
      if (x === null || y === null) return (x === null) - (y === null); // without a number: last, either way
      return sign * (x - y);
    });
    table.tBodies[0].append(...rows);
    [...table.tHead.rows[0].cells].forEach((head, k) =>
      head.setAttribute("aria-sort", k === column ? (descending ? "descending" : "ascending") : "none"));
  }

  function filter(section) {
    const words = section.querySelector(".filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const published = section.querySelector(".published-too");
    const rows = [...section.querySelectorAll("table.results tbody tr")];
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const wanted = words.every((word) => text.includes(word));
      row.hidden = !wanted || (row.classList.contains("published") && published && !published.checked);
    }
    const shown = rows.filter((row) => !row.hidden).length;
    section.querySelector(".count").textContent = `${shown} of ${rows.length} rows`;
  }

  for (const section of document.querySelectorAll("section")) {
    const table = section.querySelector("table.results");
    [...table.tHead.rows[0].cells].forEach((head, column) => head.firstChild.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sort(table, column, now === "none" ? column > 1 : now === "ascending"); // scores: the highest first
    }));
    section.querySelector(".filter").addEventListener("input", () => filter(section));
    section.querySelector(".published-too")?.addEventListener("change", () => filter(section));
    filter(section);
  }

  // ---- charts

  const config = () => {
    const style = getComputedStyle(document.documentElement);
    const [ink, muted, line] = ["--ink", "--muted", "--line"].map((name) => style.getPropertyValue(name).trim());
    const text = { labelColor: ink, titleColor: ink, titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12 };
    return {
      background: "transparent",
      view: { stroke: null },
      axis: { ...text, gridColor: line, domainColor: muted, tickColor: muted, labelOverlap: true },
      legend: text,
      font: "system-ui, sans-serif",
    };
  };

  // on a dark page colours are lighter, and black, which stands for full fine-tuning, is white
  const lighter = (_, hex) => {
    const parts = [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16));
    const share = Math.max(...parts) ? 0.4 : 1;
    return `"#${parts.map((part) => Math.round(part + (255 - part) * share).toString(16).padStart(2, "0")).join("")}"`;
  };
  const themed = (spec) =>
    dark.matches ? JSON.parse(JSON.stringify(spec).replaceAll(/"#([0-9A-Fa-f]{6})"/g, lighter)) : spec;

  async function draw(id) {
    views[id]?.finalize();
    const name = document.querySelector(`[data-chart="${id}"].data`).dataset.name;
    const options = { actions: { export: true, source: true, compiled: false, editor: false }, downloadFileName: name };
    const found = await vegaEmbed(`#${CSS.escape(id)}`, { ...themed(specs[id]), config: config() },
      { ...options, logLevel: 1, renderer: "svg", tooltip: { theme: dark.matches ? "dark" : "light" } });
    views[id] = found.view;
    apply(id);
  }

  const legendOf = (id) => document.getElementById(id).closest("section").querySelector(".legend");

  function shownIn(legend) {
    const chips = [...legend.querySelectorAll("[data-row]")];
    const on = chips.filter((chip) => chip.getAttribute("aria-pressed") === "true");
    return on.length === chips.length ? null : on.map((chip) => chip.dataset.row);
  }

  function apply(id) {
    const view = views[id];
    if (!view || !(specs[id].params ?? []).length) return;
    view.signal("shown", shownIn(legendOf(id)));
    const choice = document.querySelector(`select[data-chart="${id}"]`);
    if (choice) view.signal("against", choice.value);
    view.runAsync();
  }

  const applyAll = (section) => section.querySelectorAll(".chart").forEach((place) => apply(place.id));

  for (const legend of document.querySelectorAll(".legend")) {
    const chips = [...legend.querySelectorAll("[data-row]")];
    const press = (chip, on) => chip.setAttribute("aria-pressed", String(on));
    const section = legend.closest("section");
    for (const chip of chips) {
      chip.addEventListener("click", () => {
        press(chip, chip.getAttribute("aria-pressed") !== "true");
        applyAll(section);
      });
    }
    for (const [name, on] of [["all", true], ["none", false]]) {
      legend.querySelector(`.${name}`).addEventListener("click", () => {
        chips.forEach((chip) => press(chip, on));
        applyAll(section);
      });
    }
  }

  for (const choice of document.querySelectorAll("select[data-chart]")) {
    const against = specs[choice.dataset.chart].params.find((param) => param.name === "against");
    choice.value = against.value;
    choice.addEventListener("change", () => apply(choice.dataset.chart));
  }

  // ---- the data of a chart, as a file

  const quoted = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  function csv(rows) {
    const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
    return [names, ...rows.map((row) => names.map((name) => row[name]))].map((line) => line.map(quoted).join(",")).join("\n") + "\n";
  }

  for (const button of document.querySelectorAll("button.data")) {
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv(specs[button.dataset.chart].data.values)], { type: "text/csv" }));
      link.download = `${button.dataset.name}.csv`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }

  // ---- draw what comes into view, so that a long page answers at once

  if (window.vegaEmbed) {
    const places = [...document.querySelectorAll(".chart")];
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        seen.unobserve(entry.target);
        draw(entry.target.id);
      }
    }, { rootMargin: "600px" });
    places.forEach((place) => seen.observe(place));
    dark.addEventListener("change", () => Object.keys(views).forEach(draw));
    window.addEventListener("beforeprint", () => places.filter((place) => !views[place.id]).forEach((place) => draw(place.id)));
  }
})();
