"""The page at `/docs`: it draws `/openapi.json` by itself, and loads nothing from elsewhere.

The usual pages fetch their scripts from a content delivery network, which a server without internet cannot reach.
"""

DOCS_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Paceline: API</title>
<style>
  :root { color-scheme: light dark; --line: #8886; --soft: #8881; --accent: #0a7d5c; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
  h1 { margin: 0; } h2 { margin: 2rem 0 .5rem; text-transform: capitalize; }
  details { border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0; }
  summary { padding: .6rem .8rem; cursor: pointer; display: flex; gap: .8rem; align-items: baseline; flex-wrap: wrap; }
  summary b { background: var(--accent); color: #fff; border-radius: .3rem; padding: 0 .5rem; min-width: 4rem;
    text-align: center; font: 600 .85rem/1.6 ui-monospace, monospace; }
  summary code { font-weight: 600; overflow-wrap: anywhere; }
  .inside { padding: 0 .8rem .8rem; }
  select { font: inherit; }
  textarea, input { width: 100%; box-sizing: border-box; font: .85rem/1.4 ui-monospace, monospace; padding: .5rem; }
  label { display: block; margin: .5rem 0; }
  pre { background: var(--soft); padding: .6rem; border-radius: .3rem; overflow: auto; max-height: 28rem;
    font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
  table { border-collapse: collapse; width: 100%; font-size: .9rem; display: block; overflow: auto; }
  th, td { text-align: left; border-bottom: 1px solid var(--line); padding: .25rem .6rem .25rem 0;
    vertical-align: top; }
  button { font: inherit; padding: .3rem 1.2rem; border-radius: .3rem; border: 0; color: #fff;
    background: var(--accent); cursor: pointer; }
  :focus-visible { outline: 3px solid #e8a33d; outline-offset: 2px; }
</style>
</head>
<body>
<header><h1 id="title">API</h1><p id="about" role="status">Reading the description …</p></header>
<form id="access" hidden>
  <label>API key, or another bearer token <input id="key" type="password" autocomplete="off" spellcheck="false"></label>
  <button>Use it</button>
  <p>This page keeps it only until it is closed, and sends it to this server only.</p>
</form>
<details id="card" hidden><summary><b>card</b><span>The live model's card</span></summary>
  <p><button id="page" type="button">Open it with its plots</button></p><div class="inside"></div></details>
<main id="paths"></main>
<noscript>This page needs JavaScript; <a href="/openapi.json">the description is here</a>.</noscript>
<script>
"use strict";
let api;
const credential = () => {
  const key = document.getElementById("key").value.trim();
  return !key ? {} : key.startsWith("pk_") ? { "x-api-key": key } : { authorization: "Bearer " + key };
};
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const resolve = schema => schema && schema.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema || {};
const nameOf = schema => schema && schema.$ref ? schema.$ref.split("/").pop() : typeOf(schema || {});
const typeOf = schema => schema.anyOf ? schema.anyOf.map(nameOf).join(" or ")
  : schema.type === "array" ? "list of " + nameOf(schema.items) : [].concat(schema.type || "any").join(" or ");
const limitsOf = schema => ["minimum", "maximum", "minItems", "maxItems", "enum", "examples", "default"]
  .filter(key => schema[key] !== undefined).map(key => key + " " + JSON.stringify(schema[key])).join(", ");

function table(name, seen) {
  const schema = resolve({ $ref: "/" + name });
  if (!schema || !schema.properties || seen.has(name)) return [];
  seen.add(name);
  const body = make("tbody");
  const below = [];
  for (const [key, value] of Object.entries(schema.properties)) {
    const isRequired = (schema.required || []).includes(key);
    body.append(make("tr", {}, make("td", {}, make("code", {}, key)), make("td", {}, nameOf(value)),
      make("td", {}, isRequired ? "required" : ""),
      make("td", {}, [value.description, limitsOf(value)].filter(Boolean).join("; "))));
    for (const each of [value, value.items, ...(value.anyOf || [])])
      if (each && each.$ref) below.push(each.$ref.split("/").pop());
  }
  const caption = make("p", {}, make("strong", {}, name), schema.description ? ": " + schema.description : "");
  return [caption, make("table", {}, body), ...below.flatMap(each => table(each, seen))];
}

function operation(path, method, described) {
  const inside = make("div", { class: "inside" });
  const needed = described["x-required-scope"];
  if (needed) inside.append(make("p", {}, "Needs a credential with the scope ", make("code", {}, needed), "."));
  if (described.description) inside.append(make("p", {}, ...words(described.description)));
  const fields = {};
  for (const parameter of described.parameters || []) {
    const field = fields[parameter.name] = make("input", { placeholder: parameter.in });
    inside.append(make("label", {}, parameter.name, field));
  }
  const contents = described.requestBody ? described.requestBody.content : {};
  const content = contents["application/json"];
  let area, kind;
  if (content) {
    area = make("textarea", { rows: 10, spellcheck: "false" });
    const isBinary = each => (contents[each].schema || {}).format === "binary";
    kind = make("select", {}, ...Object.keys(contents).filter(each => !isBinary(each))
      .map(each => make("option", {}, each)));
    const others = Object.keys(contents).filter(isBinary);
    if (others.length) inside.append(make("p", {}, "Also takes ", make("code", {}, others.join(", ")),
      ", which a page cannot send."));
    kind.onchange = () => {
      const example = contents[kind.value].example;
      area.value = typeof example === "string" ? example : JSON.stringify(example || {}, null, 2);
    };
    kind.onchange();
    inside.append(make("label", {}, "Content type ", kind), make("label", {}, "Body", area));
  }
  const token = make("input", { type: "password", autocomplete: "off" });
  if (path.startsWith("/control")) inside.append(make("label", {}, "Control token, where one is set", token));
  const button = make("button", { type: "button" }, "Send");
  const output = make("pre", { role: "status", hidden: "" });
  button.onclick = async () => {
    let url = path;
    const headers = {};
    const query = new URLSearchParams();
    for (const parameter of described.parameters || []) {
      const value = fields[parameter.name].value;
      if (parameter.in === "path") url = url.replace("{" + parameter.name + "}", encodeURIComponent(value));
      else if (value && parameter.in === "query") query.set(parameter.name, value);
      else if (value && parameter.in === "header") headers[parameter.name] = value;
    }
    if (area) headers["content-type"] = kind.value;
    if (!path.startsWith("/control")) Object.assign(headers, credential());
    if (token.value) headers.authorization = "Bearer " + token.value;
    output.hidden = false;
    output.textContent = "…";
    try {
      const suffix = query.toString() ? "?" + query : "";
      const answer = await fetch(url + suffix, { method: method.toUpperCase(), headers, body: area && area.value });
      let text = await answer.text();
      try { text = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: shown as it is */ }
      output.textContent = answer.status + "\\n" + text;
    } catch (error) { output.textContent = "No answer: " + error; }
  };
  inside.append(button, output);
  const seen = new Set();
  if (content) inside.append(make("h3", {}, "Request"), ...table(nameOf(content.schema), seen));
  const problems = make("tbody");
  for (const [status, answer] of Object.entries(described.responses || {})) {
    if (status >= "400") {
      problems.append(make("tr", {}, make("td", {}, make("code", {}, status)),
        make("td", {}, ...words(answer.description || ""))));
      continue;
    }
    const [schema] = Object.values(answer.content || {}).map(each => each.schema);
    inside.append(make("h3", {}, "Answer " + status + ": " + (answer.description || "")));
    for (const each of schema ? [schema, ...(schema.anyOf || [])] : [])
      if (each.$ref) inside.append(...table(nameOf(each), seen));
  }
  if (problems.rows.length)
    inside.append(make("h3", {}, "Problems"), make("table", {}, problems), ...table("Problem", seen));
  return make("details", {}, make("summary", {}, make("b", {}, method.toUpperCase()), make("code", {}, path),
    make("span", {}, described.summary || "")), inside);
}

// the Markdown that a model card has: headings, lists, tables and paragraphs
const words = text => text.split(/(`[^`]+`|\\*\\*[^*]+\\*\\*)/).filter(Boolean).map(part =>
  part[0] === "`" ? make("code", {}, part.slice(1, -1))
    : part.startsWith("**") ? make("strong", {}, part.slice(2, -2)) : part);
function drawn(markdown) {
  const cells = line => line.replace(/^\\||\\|$/g, "").split(/(?<!\\\\)\\|/)
    .map(cell => cell.trim().replaceAll("\\\\|", "|"));
  return markdown.split(/\\n{2,}|\\n(?=#)|(?<=^#[^\\n]*)\\n/m).filter(block => block.trim()).map(block => {
    const lines = block.trim().split("\\n");
    const heading = /^(#+) (.*)/.exec(lines[0]);
    if (heading) return make("h" + Math.min(heading[1].length + 2, 6), {}, ...words(heading[2]));
    if (lines.every(line => /^[-*] /.test(line)))
      return make("ul", {}, ...lines.map(line => make("li", {}, ...words(line.slice(2)))));
    if (lines.every(line => line[0] === "|"))
      return make("table", {}, make("tbody", {}, ...lines.filter(line => !/^[|\\s:-]+$/.test(line)).map((line, row) =>
        make("tr", {}, ...cells(line).map(cell => make(row ? "td" : "th", {}, ...words(cell)))))));
    return make("p", {}, ...words(block));
  });
}

async function drawCard() {
  const answer = await fetch("/model-card", { headers: credential() });
  const card = document.getElementById("card");
  card.hidden = !answer.ok;
  if (answer.ok) card.querySelector("div").replaceChildren(...drawn(await answer.text()));
}
// fetched and not linked: a link would carry no credential
document.getElementById("page").addEventListener("click", async () => {
  const answer = await fetch("/model-card", { headers: { ...credential(), accept: "text/html" } });
  const type = answer.headers.get("content-type");
  window.open(URL.createObjectURL(new Blob([await answer.text()], { type })));
});

async function draw() {
  const answer = await fetch("/openapi.json", { headers: credential() });
  const isRefused = answer.status === 401 || answer.status === 403 || answer.status === 429;
  document.getElementById("access").hidden = !isRefused && !document.getElementById("key").value;
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({ detail: "" }));
    const lead = isRefused ? "The description of this server is for its clients" : "The description cannot be read";
    document.getElementById("about").textContent = lead + " (" + answer.status + "): " + problem.detail;
    return;
  }
  api = await answer.json();
  document.title = document.getElementById("title").textContent = api.info.title;
  const about = api.info.description + " API version " + api.info.version + ".";
  document.getElementById("about").replaceChildren(...words(about));
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths))
    for (const [method, described] of Object.entries(methods)) {
      const tag = (described.tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, make("section", {}, make("h2", {}, tag)));
      groups.get(tag).append(operation(path, method, described));
    }
  document.getElementById("paths").replaceChildren(...groups.values());
  await drawCard();
}
const show = () => draw().catch(error => {
  document.getElementById("about").textContent = "The description cannot be read: " + error;
});
document.getElementById("access").onsubmit = event => { event.preventDefault(); show(); };
show();
</script>
</body>
</html>
"""
