// The picture with its labels: colours drawn on a canvas over the image, legend, and a crosshair that asks for a pixel.
const stage = element.querySelector(".cc-stage");
const photo = element.querySelector(".cc-photo");
const canvas = element.querySelector(".cc-colors");
const cross = element.querySelector(".cc-cross");
const tip = element.querySelector(".cc-tip");
const legend = element.querySelector(".cc-legend");
const empty = element.querySelector(".cc-empty");
let indices = null;
let alone = null;
let at = [0.5, 0.5];

async function draw() {
  const value = props.value;
  element.dataset.ready = "no";
  empty.hidden = Boolean(value);
  stage.hidden = legend.hidden = !value;
  if (!value) return;
  const grey = new Image();
  grey.src = value.labels;
  if (photo.src !== value.image) photo.src = value.image;
  await Promise.all([grey.decode(), photo.decode()]);
  if (props.value !== value && JSON.stringify(props.value) !== JSON.stringify(value)) return;
  stage.style.setProperty("--ratio", value.width / value.height);
  const scratch = document.createElement("canvas");
  [scratch.width, scratch.height] = [canvas.width, canvas.height] = [value.width, value.height];
  const pen = scratch.getContext("2d", { willReadFrequently: true });
  pen.drawImage(grey, 0, 0);
  const pixels = pen.getImageData(0, 0, value.width, value.height).data;
  indices = new Uint8Array(value.width * value.height);
  for (let place = 0; place < indices.length; place += 1) indices[place] = pixels[4 * place];
  if (alone !== null && !value.names.includes(alone)) alone = null;
  paint();
  list();
  element.dataset.ready = "yes";
  element.dataset.drawn = String(Number(element.dataset.drawn || 0) + 1);
}

function paint() {
  const { width, height, colors, names } = props.value;
  const parts = colors.map((color) => [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16)));
  const only = alone === null ? -1 : names.indexOf(alone);
  const pen = canvas.getContext("2d");
  const picture = pen.createImageData(width, height);
  const data = picture.data;
  for (let y = 0, place = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, place += 1) {
      const label = indices[place];
      const border = (x && indices[place - 1] !== label) || (y && indices[place - width] !== label);
      const color = border ? [255, 255, 255] : parts[label] || [0, 0, 0];
      const out = 4 * place;
      data[out] = color[0];
      data[out + 1] = color[1];
      data[out + 2] = color[2];
      data[out + 3] = only >= 0 && label !== only ? 0 : border ? 170 : 255;
    }
  }
  pen.putImageData(picture, 0, 0);
}

function list() {
  const { names, colors, shares, absent } = props.value;
  const order = names.map((_, index) => index).sort((one, other) => shares[other] - shares[one] || one - other);
  legend.replaceChildren(...order.map((index) => {
    const entry = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(alone === names[index]));
    button.title = "Show this label alone";
    button.dataset.name = names[index];
    const swatch = document.createElement("i");
    swatch.style.background = colors[index];
    const name = document.createElement("span");
    name.textContent = names[index];
    const share = document.createElement("b");
    share.textContent = `${(100 * shares[index]).toFixed(1)} %`;
    const bar = document.createElement("em");
    bar.style.cssText = `width:${100 * shares[index]}%;background:${colors[index]}`;
    button.append(swatch, name, share, bar);
    if (!shares[index]) entry.className = "cc-absent";
    if (absent[index]) entry.title = `${names[index]} did not compete: ${absent[index]}`;
    entry.append(button);
    return entry;
  }));
}

legend.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  alone = alone === button.dataset.name ? null : button.dataset.name;
  paint();
  for (const other of legend.querySelectorAll("button"))
    other.setAttribute("aria-pressed", String(other.dataset.name === alone));
});

function point(fractions, ask) {
  at = fractions.map((part) => Math.min(0.9999, Math.max(0, part)));
  const { width, height, names } = props.value;
  const [x, y] = [Math.floor(at[0] * width), Math.floor(at[1] * height)];
  const name = names[indices[y * width + x]];
  cross.style.left = tip.style.left = `${100 * at[0]}%`;
  cross.style.top = tip.style.top = `${100 * at[1]}%`;
  tip.classList.toggle("cc-tip-left", at[0] > 0.6);
  tip.textContent = name;
  stage.setAttribute("aria-label", `Segmented image. At column ${x}, row ${y}: ${name}. Arrow keys move, Enter ranks.`);
  if (ask) {
    cross.hidden = false;
    trigger("select", { x: at[0], y: at[1] });
  }
}

function under(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}
stage.addEventListener("pointermove", (event) => {
  if (!indices || event.pointerType === "touch") return;
  tip.hidden = false;
  point(under(event), false);
});
stage.addEventListener("pointerleave", () => { tip.hidden = true; });
stage.addEventListener("click", (event) => { if (indices) point(under(event), true); });
stage.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const step = event.shiftKey ? 0.08 : 0.015;
  if (moves[event.key] && indices) {
    event.preventDefault();
    cross.hidden = tip.hidden = false;
    point([at[0] + step * moves[event.key][0], at[1] + step * moves[event.key][1]], false);
  } else if ((event.key === "Enter" || event.key === " ") && indices) {
    event.preventDefault();
    point(at, true);
  }
});
stage.addEventListener("blur", () => { tip.hidden = true; });
watch("value", draw);
draw();
