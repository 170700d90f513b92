// Starts `mailauth test-server`, and asks its HTTP API.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** Start the server; the result says where it is, who can log in, and has stop(). */
export async function startMailServer(...options) {
  // The pipe to its standard input is closed when this process ends, however it ends, and that ends the server.
  const server = spawn("mailauth", ["test-server", "--until-eof", ...options], { stdio: ["pipe", "pipe", "inherit"] });
  const exited = new Promise((resolve, reject) => server.on("exit", resolve).on("error", reject));
  const lines = createInterface({ input: server.stdout })[Symbol.asyncIterator]();
  const first = await Promise.race([lines.next(), exited.then((status) => ({ status }))]);
  if (!first.value) throw new Error("mailauth test-server has not started");
  const stop = async () => {
    server.stdin.end();
    return exited;
  };
  return { ...JSON.parse(first.value), stop };
}

/** Send a request to the API, and return the response. */
export async function request(server, path, method = "GET", body = undefined) {
  const response = await fetch(server.http_url + path, { method, body: body && JSON.stringify(body) });
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
  return response;
}

/** Return the newest message that the search finds; wait until there is one. */
export async function waitForMessage(server, search, timeout = 5000) {
  const deadline = Date.now() + timeout;
  for (;;) {
    const path = `/api/v1/search?limit=1&query=${encodeURIComponent(search)}`;
    const { messages } = await (await request(server, path)).json();
    if (messages.length) return (await request(server, `/api/v1/message/${messages[0].ID}`)).json();
    if (Date.now() > deadline) throw new Error(`no message for ${search} within ${timeout} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
