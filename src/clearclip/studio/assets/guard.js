// Before a file travels: one that is too large is told at once (the server refuses it as well), and an image that is
// pasted anywhere on the page is taken. Runs inside gr.HTML (element, props, trigger).
function tooLarge(event, list) {
  const most = event.target.accept?.includes("json") ? props.most_example : props.most_image;
  const file = [...(list || [])].find((one) => one.size > most);
  if (!file) return false;
  event.preventDefault();
  event.stopImmediatePropagation();
  trigger("select", { name: file.name, size: file.size, most });
  return true;
}
document.addEventListener("change", (event) => {
  if (event.target.matches("input[type=file]") && tooLarge(event, event.target.files)) event.target.value = "";
}, true);
document.addEventListener("drop", (event) => {
  if (tooLarge(event, event.dataTransfer?.files)) event.target.dispatchEvent(new Event("dragleave", { bubbles: true }));
}, true);
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
  const input = document.querySelector("#image input[type=file]");
  if (!file || !input) return;
  event.preventDefault();
  const transfer = new DataTransfer();
  transfer.items.add(file);
  input.files = transfer.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});
