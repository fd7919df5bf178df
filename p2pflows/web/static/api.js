// Requests to the server of this page.

const KEY = "p2pflows-key";
const TIMEOUT_MS = 40_000;

/** A request that failed, in the words of the server. */
export class Failure extends Error {
  constructor(code, message, hint = "", more = {}) {
    super(message);
    this.code = code;
    this.hint = hint;
    this.fields = more.fields ?? null;
    this.from = more.from ?? null;
    this.name = more.name ?? null;
  }

  /** Whether the same request may work later, as the daemon or the server is away. */
  get isAway() {
    return this.code === "daemon_not_running" || this.code === "server_away";
  }

  /** What is wrong and what to do, in one line. */
  get sentence() {
    return this.hint ? `${this.message} ${this.hint}` : this.message;
  }
}

let onLoggedOut = () => {};

/** Call a function whenever the server says that this browser is not logged in. */
export function whenLoggedOut(listener) {
  onLoggedOut = listener;
}

/** Whether this browser has logged in at some time. */
export function hasKey() {
  return localStorage.getItem(KEY) !== null;
}

/** Return the headers of a request. */
export function headers() {
  return { "Content-Type": "application/json", "X-P2pflows-Key": localStorage.getItem(KEY) ?? "" };
}

/** Call a method, and return its result; throws a Failure. */
export async function call(method, params = {}) {
  let response;
  let answer;
  try {
    response = await fetch(`/api/${method}`, {
      method: "POST",
      headers: headers(),
      body: JSON.stringify(params),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    answer = await response.json();
  } catch {
    throw new Failure("server_away", "The server of this page does not answer.", "Start it with: p2pflows web");
  }
  if ("result" in answer) {
    return answer.result;
  }
  const error = answer.error;
  if (response.status === 401) {
    onLoggedOut();
  }
  throw new Failure(error.code, error.message, error.hint, error);
}

/** Send a file to the daemon, and return the reference for a message; throws a Failure. */
export function upload(file, onProgress) {
  const request = new XMLHttpRequest(); // as fetch does not say how far an upload has got
  request.open("POST", "/api/upload");
  request.responseType = "json";
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.setRequestHeader("X-P2pflows-Key", localStorage.getItem(KEY) ?? "");
  request.setRequestHeader("X-P2pflows-Name", encodeURIComponent(file.name));
  return new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => onProgress(event.total === 0 ? 1 : event.loaded / event.total);
    request.onerror = () => reject(new Failure("server_away", `The file ${file.name} was not sent, as the server of this page does not answer.`, "Try again."));
    request.onload = () => {
      if (request.response?.result) {
        resolve(request.response.result.file);
        return;
      }
      if (request.status === 401) {
        onLoggedOut();
      }
      const error = request.response?.error ?? { code: "bug", message: "The file was not sent." };
      reject(new Failure(error.code, error.message, error.hint, error));
    };
    request.send(file);
  });
}

/** Log this browser in. */
export async function logIn(token) {
  const { key } = await call("login", { token });
  localStorage.setItem(KEY, key);
}

/** Log this browser out. */
export async function logOut() {
  await call("logout");
  localStorage.removeItem(KEY);
  sessionStorage.clear();
}
