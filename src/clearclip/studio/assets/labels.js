// The list of labels: a row each with colour, name and synonyms. Runs inside gr.HTML (element, props, trigger, watch).
const list = element.querySelector(".cc-labels");
const counter = element.querySelector(".cc-labels-count");
let timer = null;

const clean = (text) => text.replace(/\s+/g, " ").trim();
const automatic = (index) => props.palette[index % props.palette.length];

function read() {
  return [...list.children].map((row) => ({
    name: clean(row.querySelector(".cc-name").value),
    synonyms: row.querySelector(".cc-synonyms").value.split(/[,|]/).map(clean).filter(Boolean),
    color: row.dataset.color || null,
  }));
}

function announce(wait) {
  number();
  clearTimeout(timer);
  timer = setTimeout(() => {
    const value = read().filter((label) => label.name);
    if (JSON.stringify(value) === JSON.stringify(props.value)) return;
    props.value = value;
    trigger("input");
  }, wait);
}

function number() {
  let place = 0;
  [...list.children].forEach((row, index) => {
    const name = clean(row.querySelector(".cc-name").value) || `label ${index + 1}`;
    row.querySelector(".cc-color").value = row.dataset.color || automatic(place);
    row.querySelector(".cc-color").setAttribute("aria-label", `Colour of ${name}`);
    row.querySelector(".cc-name").setAttribute("aria-label", `Name of label ${index + 1}`);
    row.querySelector(".cc-synonyms").setAttribute("aria-label", `Other words for ${name}`);
    row.querySelector(".cc-remove").setAttribute("aria-label", `Remove ${name}`);
    if (clean(row.querySelector(".cc-name").value)) place += 1;
  });
  counter.textContent = `${place} of at most ${props.most}`;
}

function addRow(label, before = null) {
  const row = document.createElement("li");
  row.innerHTML = `<input type="color" class="cc-color"><input type="text" class="cc-name" placeholder="a thing to find"
    autocomplete="off" spellcheck="false" maxlength="200"><input type="text" class="cc-synonyms" autocomplete="off"
    placeholder="other words, …" spellcheck="false" maxlength="1000"><button type="button" class="cc-remove">×</button>`;
  row.querySelector(".cc-name").value = label.name || "";
  row.querySelector(".cc-synonyms").value = (label.synonyms || []).join(", ");
  if (label.color) row.dataset.color = label.color;
  list.insertBefore(row, before);
  return row;
}

function fill() {
  const shown = read().filter((label) => label.name);
  if (JSON.stringify(shown) === JSON.stringify(props.value || [])) return number();
  list.replaceChildren();
  for (const label of props.value || []) addRow(label);
  if (!list.children.length) addRow({});
  number();
}

list.addEventListener("input", (event) => {
  const row = event.target.closest("li");
  if (event.target.classList.contains("cc-color")) row.dataset.color = event.target.value;
  announce(event.target.classList.contains("cc-color") ? 60 : 220);
});
list.addEventListener("keydown", (event) => {
  const row = event.target.closest("li");
  if (event.key === "Enter" && event.target.matches("input[type=text]")) {
    event.preventDefault();
    addRow({}, row.nextSibling).querySelector(".cc-name").focus();
    announce(0);
  } else if (event.key === "Backspace" && event.target.matches(".cc-name") && !event.target.value && row.previousSibling) {
    event.preventDefault();
    row.previousSibling.querySelector(".cc-name").focus();
    row.remove();
    announce(0);
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && event.target.matches("input[type=text]")) {
    const other = event.key === "ArrowDown" ? row.nextSibling : row.previousSibling;
    if (!other) return;
    event.preventDefault();
    other.querySelector(event.target.matches(".cc-name") ? ".cc-name" : ".cc-synonyms").focus();
  }
});
list.addEventListener("paste", (event) => {
  const lines = event.clipboardData.getData("text").split(/\r?\n/).map(clean).filter(Boolean);
  if (lines.length < 2 || !event.target.matches(".cc-name")) return;
  event.preventDefault();
  const row = event.target.closest("li");
  for (const line of lines) {
    const [text, color] = line.split("@#");
    const [name, synonyms] = text.split("=");
    addRow({ name: clean(name), synonyms: (synonyms || "").split("|").map(clean).filter(Boolean),
      color: color ? `#${clean(color)}` : null }, row);
  }
  if (!clean(row.querySelector(".cc-name").value)) row.remove();
  announce(0);
});
list.addEventListener("click", (event) => {
  if (!event.target.matches(".cc-remove")) return;
  const row = event.target.closest("li");
  const next = row.nextSibling || row.previousSibling;
  row.remove();
  if (next) next.querySelector(".cc-name").focus();
  else addRow({}).querySelector(".cc-name").focus();
  announce(0);
});
element.querySelector(".cc-add").addEventListener("click", () => addRow({}).querySelector(".cc-name").focus());
element.querySelector(".cc-clear").addEventListener("click", () => {
  list.replaceChildren();
  addRow({}).querySelector(".cc-name").focus();
  announce(0);
});
watch("value", fill);
fill();
