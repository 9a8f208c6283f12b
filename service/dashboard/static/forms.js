// Forms that ask before they do something, that leave out what is empty, and choices that need no button.
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.asks;
  if (question && !confirm(question)) { event.preventDefault(); return; }
  if (event.target.method === "get") {
    for (const field of event.target.elements) if (field.name && !field.value) field.disabled = true;
  }
});
// Who comes back to a page finds its fields as they were.
addEventListener("pageshow", () => document.querySelectorAll("form[method=get] :disabled").forEach((each) => { each.disabled = false; }));

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
});

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  });
}
