// The requests of the page to the HTTP API. Errors carry the server's text, which is written for people.

import { justIssued } from "./access-token.js";
import { duration } from "../components/format.js";

const SLICE = 1 << 20; // bytes of output requested at once
const UNREACHABLE = "The server cannot be reached. Try again in a moment.";

class ApiError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// The text of a failed request; anything else that is thrown is a fault of this page.
export function errorText(error) {
  if (!(error instanceof ApiError)) throw error;
  return error.message;
}

async function request(path, token, options = {}) {
  return (await responseTo(path, token, options)).json().catch(() => null);
}

async function responseTo(path, token, options) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const url = new URL(path, document.baseURI);
  const response = await unlessCut(fetch(url, { ...options, headers, cache: "no-store" }));
  if (response.ok) return response;
  throw new ApiError(response.status, problemText(response, await response.json().catch(() => null)));
}

async function unlessCut(promise) {
  try {
    return await promise;
  } catch {
    throw new ApiError(0, UNREACHABLE);
  }
}

function problemText(response, problem) {
  const wait = response.headers.get("retry-after");
  const text = [problem?.detail ?? `The server returned ${response.status}.`, problem?.hint];
  if (wait) text.push(`Try again in ${duration(wait * 1000, 0)}.`);
  return text.filter(Boolean).join(" ");
}

const asJson = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

// Each of these returns an access token.

async function issued(path, token, options) {
  return justIssued((await request(path, token, options)).access_token);
}

export function tokenForPassword(username, password) {
  return issued("api/auth/token", null, { method: "POST", body: new URLSearchParams({ username, password }) });
}

export const tokenForTicket = (ticket) => issued("api/auth/link", null, asJson({ ticket }));
export const renewToken = (token) => issued("api/auth/renew", token, { method: "POST" });
export const setPassword = (token, current, password) => issued("api/auth/password", token, asJson({ current, password }));

export const revokeToken = (token) => request("api/auth/revoke", token, { method: "POST", keepalive: true });
export const listProjects = (token) => request("api/projects", token);
export const createProject = (token, name) => request("api/projects", token, asJson({ name }));

// A page of executions, newest first; empty values of `query` are left out.
export function listExecutions(token, query) {
  const given = Object.entries(query).filter(([, value]) => value);
  return request(`api/executions?${new URLSearchParams(given)}`, token);
}

// The complete output of an execution so far, in pieces.
export async function readOutput(token, id) {
  const pieces = [];
  let part = { next_offset: 0, total_size: 1 };
  while (part.next_offset < part.total_size) {
    const query = new URLSearchParams({ offset: part.next_offset, limit: SLICE });
    part = await request(`api/executions/${id}/output?${query}`, token);
    pieces.push(part.data);
    if (part.data === "") break; // a running command may be in the middle of a character
  }
  return pieces;
}

export const startExecution = (token, body) => request("api/executions", token, asJson(body));
export const cancelExecution = (token, id) => request(`api/executions/${id}/cancel`, token, { method: "POST" });

// The messages of an execution behind `after`, live, until its end. It takes a token, which an EventSource cannot send.
export async function* messagesOf(token, id, after, signal) {
  const headers = { "Last-Event-ID": after };
  const { body } = await responseTo(`api/executions/${id}/events`, token, { headers, signal });
  if (body === null) return; // nothing comes after it
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = { value: "" }; !part.done; part = await unlessCut(reader.read())) {
    const events = (rest + part.value).split("\n\n");
    rest = events.pop();
    yield* events.map((event) => /^data: (.*)$/m.exec(event)?.[1]).filter(Boolean).map((data) => JSON.parse(data));
  }
}

export const readExecution = (token, id) => request(`api/executions/${id}`, token);

const send = (method, path, token, body) => request(path, token, { ...asJson(body), method });
const remove = (path, token) => request(path, token, { method: "DELETE" });

export const listHosts = (token) => request("api/hosts", token);

// Django projects, their commands, and the keys of their runners.

export const listDjango = (token) => request("api/django", token);
export const listCommands = (token, project, search) =>
  request(`api/django/${project}/commands?${new URLSearchParams({ search })}`, token);
export const createKey = (token, project, name) => send("POST", `api/django/${project}/keys`, token, { name });
export const revokeKey = (token, project, key) => remove(`api/django/${project}/keys/${key}`, token);
// `what` is rotate, suspend or resume.
export const changeKey = (token, project, key, what, body) =>
  send("POST", `api/django/${project}/keys/${key}/${what}`, token, body);

// Schedules, notifications and hooks: `kind` names them.

export const listThings = (token, kind) => request(`api/${kind}`, token);
export const addThing = (token, kind, body) => send("POST", `api/${kind}`, token, body);
export const changeThing = (token, kind, id, body) => send("PATCH", `api/${kind}/${id}`, token, body);
export const deleteThing = (token, kind, id) => remove(`api/${kind}/${id}`, token);
export const partsOf = (token, kind, id, part) => request(`api/${kind}/${id}/${part}`, token);
// `what` is what is done with it: run, test, deliveries/ID/repeat.
export const actOn = (token, kind, id, what) => request(`api/${kind}/${id}/${what}`, token, { method: "POST" });
export const rotateHook = (token, id) => send("POST", `api/hooks/${id}/rotate`, token, {});

// Call a hook: no token, but headers with a signature of the body.
export const callHook = (url, body, headers) => request(url.slice(1), null, { method: "POST", body, headers });

// What is left of the rates of the client.
export const readLimits = (token) => request("api/limits", token);

// Whether the server admits accounts only; false when it does not say.
export async function accountsOnly() {
  try {
    return (await request("", null, { headers: { Accept: "application/json" } })).visitors === "refused";
  } catch {
    return false;
  }
}

// Why no command can run on this server; null when commands can.
export async function protectionProblem() {
  try {
    const response = await fetch(new URL("health/protection", document.baseURI), { cache: "no-store" });
    return response.status === 503 ? protectionText(await response.json()) : null;
  } catch {
    return null; // the socket will say so
  }
}

function protectionText({ level, minimum, tests, command }) {
  const failed = tests.filter((test) => !test.passed).map((test) => test.name);
  return [
    `No command can run at the moment. This server protects commands at level ${level}; ${minimum} is required.`,
    failed.length ? `Not prevented: ${failed.join(", ")}.` : "",
    `For details, run on the server: ${command}`,
  ].filter(Boolean).join(" ");
}
