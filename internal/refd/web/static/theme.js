// The theme is chosen before anything is painted.
(() => {
  const saved = localStorage.getItem("weir-theme");
  if (saved === "light" || saved === "dark") document.documentElement.dataset.theme = saved;
})();
