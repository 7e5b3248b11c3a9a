for (const box of document.querySelectorAll("[data-search]")) {
  const items = [...document.querySelectorAll(box.dataset.search)];
  const [field, count, all] = ["input", "output", "button"].map((name) => box.querySelector(name));
  const texts = items.map((item) => item.textContent.toLowerCase());
  let first = Number(box.dataset.first);
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    items.forEach((item, n) => {
      item.hidden = words.length ? !words.every((word) => texts[n].includes(word)) : n >= first;
    });
    const shown = items.filter((item) => !item.hidden).length;
    count.textContent = `${shown} of ${items.length}`;
    all.hidden = words.length > 0 || shown === items.length;
  };
  field.addEventListener("input", show);
  all.addEventListener("click", () => { first = items.length; show(); field.focus(); });
  addEventListener("beforeprint", () => items.forEach((item) => { item.hidden = false; }));
  addEventListener("afterprint", show);
  box.hidden = false;
  show();
}
