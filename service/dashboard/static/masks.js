// Masks as layers: switched on and off, and lit while one points at them. What is switched off stands in the address.
const stage = document.querySelector('[data-part="shown"]');

const boxes = () => [...stage.querySelectorAll("input[data-mask]:not(:disabled)")];

function layer(index) {
  return stage.querySelector(`[data-layer="${index}"]`);
}

function remember() {
  const hidden = boxes().filter((box) => !box.checked).map((box) => box.dataset.mask);
  const address = new URL(location.href);
  if (hidden.length) address.searchParams.set("hide", hidden.join(",")); else address.searchParams.delete("hide");
  if (stage.querySelector("[data-boxes]")?.checked) address.searchParams.set("boxes", "1"); else address.searchParams.delete("boxes");
  address.searchParams.delete("said");
  history.replaceState(null, "", address);
}

function apply() {
  for (const box of boxes()) layer(box.dataset.mask)?.toggleAttribute("hidden", !box.checked);
  const all = stage.querySelector("[data-masks-all]");
  if (all) {
    all.checked = boxes().some((box) => box.checked);
    all.indeterminate = all.checked && boxes().some((box) => !box.checked);
  }
  stage.querySelector(".layers")?.classList.toggle("with-boxes", Boolean(stage.querySelector("[data-boxes]")?.checked));
}

// The part came anew from the server, which was not asked for what the address says.
function recall() {
  const chosen = new URL(location.href).searchParams;
  const hidden = new Set((chosen.get("hide") ?? "").split(","));
  for (const box of boxes()) box.checked = !hidden.has(box.dataset.mask);
  const outlines = stage.querySelector("[data-boxes]");
  if (outlines) outlines.checked = chosen.get("boxes") === "1";
  apply();
}

function light(index) {
  const layers = stage.querySelector(".layers");
  stage.querySelectorAll(".is-lit").forEach((each) => each.classList.remove("is-lit"));
  const lit = index === undefined ? null : layer(index);
  layers?.classList.toggle("has-lit", Boolean(lit));
  if (index === undefined) return;
  lit?.classList.add("is-lit");
  stage.querySelectorAll(`[data-of="${index}"]`).forEach((each) => each.classList.add("is-lit"));
}

export function toggleAll() {
  const on = !boxes().some((box) => box.checked);
  for (const box of boxes()) box.checked = on;
  apply();
  remember();
}

if (stage) {
  stage.addEventListener("change", (event) => {
    if (event.target.matches("[data-masks-all]")) for (const box of boxes()) box.checked = event.target.checked;
    if (event.target.matches("[data-masks-all], [data-mask], [data-boxes]")) { apply(); remember(); }
  });
  stage.addEventListener("part", recall);
  const point = (event) => light(event.target.closest?.("[data-of]")?.dataset.of);
  for (const name of ["pointerover", "focusin"]) stage.addEventListener(name, point);
  for (const name of ["pointerleave", "focusout"]) stage.addEventListener(name, () => light(undefined));
  // A picture that cannot be had says so.
  stage.addEventListener("error", (event) => {
    const words = event.target.dataset?.mayFail;
    if (!words) return;
    const said = document.createElement("div");
    said.className = "no-picture";
    said.textContent = words;
    event.target.closest(".frame").replaceWith(said);
  }, true);
  for (const image of stage.querySelectorAll("img[data-may-fail]")) {
    if (image.complete && !image.naturalWidth) image.dispatchEvent(new Event("error"));
  }
  apply();
}
