// Shows the document of the API. Everything is shown as text: nothing in the document becomes HTML.
"use strict";

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function table(head, rows, parent) {
  if (!rows.length) return;
  const made = element("table", undefined, parent);
  const first = element("tr", undefined, element("thead", undefined, made));
  head.forEach((text) => element("th", text, first));
  const body = element("tbody", undefined, made);
  for (const cells of rows) {
    const row = element("tr", undefined, body);
    cells.forEach((cell, index) => {
      const td = element("td", undefined, row);
      element(index === 0 ? "code" : "span", cell, td);
    });
  }
}

// The schema of a body in JSON.
function json(content) {
  return content && content["application/json"] && content["application/json"].schema;
}

// What a schema stands for, with references followed.
function resolved(schema, all) {
  const name = schema && schema.$ref && schema.$ref.split("/").pop();
  return name ? { ...resolved(all[name], all), ...schema, $ref: undefined } : schema || {};
}

// An example of a schema: its own, or one made of its fields.
function example(schema, all, depth = 0) {
  const one = resolved(schema, all);
  if (one.example !== undefined) return one.example;
  if (depth > 6) return null;
  const inner = (of) => example(of, all, depth + 1);
  if (one.oneOf) return inner(one.oneOf[0]);
  if (one.allOf) return Object.assign({}, ...one.allOf.map(inner));
  if (one.enum) return one.enum[0];
  if (one.const !== undefined) return one.const;
  const type = Array.isArray(one.type) ? one.type[0] : one.type;
  if (type === "array") return [inner(one.items)];
  if (type === "object") {
    const fields = Object.entries(one.properties || {});
    return Object.fromEntries(fields.map(([name, field]) => [name, inner(field)]));
  }
  return { integer: 1, boolean: false, string: "…" }[type] ?? null;
}

function kind(schema, all) {
  const one = resolved(schema, all);
  const type = [].concat(one.type || []).filter((type) => type !== "null").join(" or ");
  const low = one.minimum ?? one.minLength ?? one.minItems;
  const high = one.maximum ?? one.maxLength ?? one.maxItems;
  const range = high === undefined || high > 4e9 ? "" : ` (${low ?? 0} to ${high})`;
  if (one.const !== undefined) return String(one.const);
  return (one.enum ? one.enum.join(", ") : type || "object") + range;
}

// The fields of a body, those of its alternatives included.
function fields(schema, all) {
  const one = resolved(schema, all);
  const required = one.required || [];
  const own = Object.entries(one.properties || {}).map(([name, field]) => [
    name, kind(field, all), required.includes(name) ? "needed" : "", resolved(field, all).description || "",
  ]);
  return own.concat(...[].concat(one.oneOf || [], one.allOf || []).map((part) => fields(part, all)));
}

function call(method, path, about, all) {
  const id = about.operationId;
  const link = element("a", undefined, element("li"));
  link.href = `#${id}`;
  element("span", method, link).className = "method";
  link.append(` ${path}`);

  const section = document.createElement("section");
  section.id = id;
  const title = element("h2", undefined, section);
  element("span", method, title).className = "method";
  element("code", path, title);
  element("p", `${about.summary}. ${about.description || ""}`, section);
  table(["Parameter", "Kind", "Where", "Meaning"], (about.parameters || []).map((one) => [
    one.name, kind(one.schema, all), one.in, one.description || "",
  ]), section);
  const body = json(about.requestBody && about.requestBody.content);
  if (body) {
    element("h3", "Body", section);
    table(["Field", "Kind", "", "Meaning"], fields(body, all), section);
    element("pre", JSON.stringify(example(body, all), null, 2), section);
  }
  element("h3", "Answers", section);
  table(["Status", "Meaning"], Object.entries(about.responses).map(([status, one]) => [status, one.description]), section);
  for (const one of Object.values(about.responses)) {
    const schema = json(one.content);
    if (schema) element("pre", JSON.stringify(example(schema, all), null, 2), section);
  }
  return [link.parentElement, section];
}

// Adds the calls of these paths to the list of that name, and to the details.
function list(name, paths, all) {
  const lines = element("ul", undefined, document.getElementById(name));
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, about] of Object.entries(methods)) {
      const [line, section] = call(method, path, about, all);
      lines.append(line);
      document.getElementById("details").append(section);
    }
  }
}

async function show() {
  const answer = await fetch("/v1/openapi.json");
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const { paths, webhooks, components, info } = await answer.json();
  list("calls", paths, components.schemas);
  list("events", Object.fromEntries(Object.entries(webhooks || {}).map(([name, about]) => [
    name, { event: { operationId: `event.${name}`, ...about.post } },
  ])), components.schemas);
  element("p", info.description, document.querySelector("header"));
}

show().catch((error) => {
  document.getElementById("about").append(` It cannot be shown: ${error.message}.`);
});
