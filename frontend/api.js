// What the page asks of the API. Errors carry the words of the server, made for people.

const SLICE = 1 << 20; // bytes of output asked for at once
const UNREACHABLE = "The server cannot be reached. Try again in a moment.";

class ApiError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// The words of a failed request; anything else that is thrown is a fault of this page.
export function wordsOf(error) {
  if (!(error instanceof ApiError)) throw error;
  return error.message;
}

async function call(path, token, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(new URL(path, document.baseURI), { ...options, headers, cache: "no-store" });
  } catch {
    throw new ApiError(0, UNREACHABLE);
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new ApiError(answer.status, words(answer, body));
  return body;
}

function words(answer, problem) {
  const wait = answer.headers.get("retry-after");
  const text = [problem?.detail ?? `The server answered with ${answer.status}.`, problem?.hint];
  if (wait) text.push(`Try again in ${wait} s.`);
  return text.filter(Boolean).join(" ");
}

const asJson = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

// Each gives an access token.
export const tokenOfPassword = async (username, password) =>
  (await call("api/auth/token", null, { method: "POST", body: new URLSearchParams({ username, password }) })).access_token;
export const tokenOfTicket = async (ticket) => (await call("api/auth/link", null, asJson({ ticket }))).access_token;

export const revoke = (token) => call("api/auth/revoke", token, { method: "POST", keepalive: true });
export const projects = (token) => call("api/projects", token);
export const makeProject = (token, name) => call("api/projects", token, asJson({ name }));

// A page of executions, newest first; what `query` leaves empty is not asked for.
export function executions(token, query) {
  const given = Object.entries(query).filter(([, value]) => value);
  return call(`api/executions?${new URLSearchParams(given)}`, token);
}

// The whole output of an execution so far, in pieces.
export async function outputOf(token, id) {
  const pieces = [];
  let part = { next_offset: 0, total_size: 1 };
  while (part.next_offset < part.total_size) {
    const question = new URLSearchParams({ offset: part.next_offset, limit: SLICE });
    part = await call(`api/executions/${id}/output?${question}`, token);
    pieces.push(part.data);
    if (part.data === "") break; // a command that runs yet may be between two characters
  }
  return pieces;
}

// Why no command can run here, in words; null when commands can.
export async function whyUnprotected() {
  try {
    const answer = await fetch(new URL("health/protection", document.baseURI), { cache: "no-store" });
    if (answer.status !== 503) return null;
    const { level, minimum, tests } = await answer.json();
    const failed = tests.filter((test) => !test.passed).map((test) => test.name);
    return [
      `No command can run here now. The machine of this server holds commands at level ${level}; ${minimum} is wanted.`,
      failed.length ? `Not prevented: ${failed.join(", ")}.` : "",
      "Whoever runs the server sees more with: python3 run.py protection",
    ].filter(Boolean).join(" ");
  } catch {
    return null; // the socket will tell
  }
}
