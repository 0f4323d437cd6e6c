"use strict";
(() => {
  const table = document.getElementById("trials");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const value = (row, column) => row.cells[column].dataset.value;
  const sort = (column, down) => {
    const numbers = heads[column].classList.contains("n");
    const compare = (a, b) => {
      const x = value(a, column), y = value(b, column);
      if ((x === "") !== (y === "")) return x === "" ? 1 : -1;  // what is not known comes last
      const order = numbers ? Number(x) - Number(y) : x < y ? -1 : x > y ? 1 : 0;
      return down ? -order : order;
    };
    rows.sort(compare).forEach((row) => body.appendChild(row));
    heads.forEach((head, n) => {
      if (n === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  };
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      sort(column, head.getAttribute("aria-sort") !== "descending");
    });
  });
  const words = document.getElementById("words");
  const search = document.getElementById("which");
  const status = document.getElementById("status");
  const count = document.getElementById("count");
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row) => {
      const text = value(row, 2).toLowerCase();
      const fits = wanted.every((word) => text.includes(word))
        && (!search.value || value(row, 0) === search.value)
        && (!status.value || value(row, 5) === status.value);
      row.hidden = !fits;
      shown += fits;
    });
    count.textContent = shown + " of " + rows.length;
  };
  [words, search, status].forEach((control) => control.addEventListener("input", filter));
  sort(3, true);
  filter();
})();
