// Search, filters and keys. Without it the page shows all it has; it sends and stores nothing.
(() => {
  "use strict";
  const root = document.documentElement;
  const get = (id) => document.getElementById(id);
  const form = document.querySelector(".filters");
  const cards = [...document.querySelectorAll(".card")].map((card) => ({
    card,
    head: card.querySelector("summary").textContent.toLowerCase(),
    rows: [...card.querySelectorAll(".row")].map((row) => ({
      row,
      text: null,
      category: row.dataset.category,
      answers: [...row.querySelectorAll(".answer")].map((answer) => ({
        answer,
        column: answer.closest(".column"),
        side: answer.dataset.side,
        verdicts: answer.dataset.verdict.split(" "),
      })),
    })),
  }));
  root.classList.add("js");

  const show = (element, shown) => element.classList.toggle("out", !shown);

  function filter() {
    const words = get("search").value.trim().toLowerCase();
    const [verdict, side, category] = ["verdict", "side", "category"].map((id) => get(id).value);
    const active = Boolean(words || verdict || side || category);
    let shownRows = 0;
    let shownCards = 0;
    for (const { card, head, rows } of cards) {
      let any = false;
      for (const each of rows) {
        each.text ??= each.row.textContent.toLowerCase();
        let fits = !category || each.category === category;
        fits &&= !words || each.text.includes(words) || head.includes(words);
        let answers = 0;
        const columns = new Map();
        for (const { answer, column, side: own, verdicts } of each.answers) {
          const ofSide = !side || own === side;
          const found = ofSide && (!verdict || verdicts.includes(verdict));
          answers += found;
          // where verdicts are asked for, the answers beside them stay, to be compared with
          show(answer, ofSide);
          answer.classList.toggle("found", Boolean(verdict) && found);
          columns.set(column, columns.get(column) || ofSide);
        }
        columns.forEach((shown, column) => show(column, shown));
        fits &&= answers > 0;
        show(each.row, fits);
        shownRows += fits;
        any ||= fits;
      }
      show(card, any);
      shownCards += any;
    }
    for (const group of document.querySelectorAll(".group")) {
      const any = Boolean(group.querySelector(".card:not(.out)"));
      show(group, any);
      group.open ||= active && any;
    }
    for (const part of document.querySelectorAll(".part")) {
      show(part, !active || part.querySelector(".card:not(.out)"));
    }
    if (active && shownCards <= 12) {
      cards.forEach(({ card }) => (card.open ||= !card.classList.contains("out")));
    }
    get("count").textContent = active ? `${shownRows} found in ${shownCards} cards` : "";
    get("clear").hidden = !active;
  }

  let waiting;
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));

  function turnTheme() {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = root.dataset.theme || (dark ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  }

  function showKeys() {
    get("keys").hidden = !get("keys").hidden;
    get("help").setAttribute("aria-expanded", String(!get("keys").hidden));
  }

  function step(by) {
    const heads = [...document.querySelectorAll(".group[open] > .cards > .card:not(.out) > summary")];
    const at = heads.indexOf(document.activeElement);
    let next = at + by;
    if (at < 0) {
      next = heads.findIndex((head) => head.getBoundingClientRect().top > 60);
    }
    const head = heads[Math.max(0, Math.min(next, heads.length - 1))];
    head?.focus();
    head?.scrollIntoView({ block: "center" });
  }

  function openAll() {
    const part = document.activeElement.closest(".part");
    const own = part ? [...part.querySelectorAll(".card:not(.out)")] : [];
    const open = own.some((card) => !card.open);
    own.forEach((card) => (card.open = open));
  }

  get("theme").addEventListener("click", turnTheme);
  get("help").addEventListener("click", showKeys);
  const keys = {
    "/": () => get("search").focus(),
    j: () => step(1),
    k: () => step(-1),
    e: openAll,
    t: turnTheme,
    "?": showKeys,
  };
  addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "Escape") {
      form.reset();
      event.target.blur();
    } else if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey && keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((each) => (each.open = true));
  });
  addEventListener("hashchange", () => get(location.hash.slice(1))?.scrollIntoView());
})();
