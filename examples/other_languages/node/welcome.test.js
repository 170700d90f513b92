// Tests of a program that sends mail with nodemailer: npm install && npm test

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import nodemailer from "nodemailer";
import { request, startMailServer, waitForMessage } from "./mail_server.js";

let server;
before(async () => {
  server = await startMailServer("--user", "alice");
});
after(async () => {
  assert.equal(await server.stop(), 0);
});
beforeEach(async () => {
  await request(server, "/api/v1/messages", "DELETE");
  await request(server, "/api/v1/chaos", "PUT", {});
});

// The program under test; its settings come from the server.
function sendWelcomeMail(to) {
  const [alice] = server.users;
  const transport = nodemailer.createTransport({
    host: server.host,
    port: server.smtp_port,
    requireTLS: true,
    tls: { ca: server.ca },
    auth: { user: alice.name, pass: alice.password },
  });
  return transport.sendMail({
    from: `Alice <${alice.address}>`,
    to,
    subject: "Welcome",
    text: "Confirm: https://example.test/confirm?token=1",
    html: '<a href="https://example.test/confirm?token=1">Confirm</a>',
    attachments: [{ filename: "terms.txt", content: "the terms" }],
  });
}

test("the mail has a link and an attachment", async () => {
  await sendWelcomeMail("carol@far.test");
  const message = await waitForMessage(server, "to:carol@far.test subject:Welcome");
  assert.deepEqual(message.From, { Name: "Alice", Address: "alice@example.test" });
  assert.equal(message.Username, "alice");
  assert.match(message.Text, /https:\/\/example\.test\/confirm\?token=1/);
  assert.deepEqual(message.Attachments.map((each) => each.FileName), ["terms.txt"]);
  const part = await request(server, `/api/v1/message/${message.ID}/part/${message.Attachments[0].PartID}`);
  assert.equal(await part.text(), "the terms");
  const html = await request(server, `/view/${message.ID}.html`);
  assert.match(await html.text(), /<a href="https:\/\/example\.test\/confirm\?token=1">/);
});

test("each second recipient is refused", async () => {
  await request(server, "/api/v1/chaos", "PUT", { Recipient: { ErrorCode: 451, Probability: 50 } });
  await sendWelcomeMail("carol@far.test");
  await assert.rejects(sendWelcomeMail("dave@far.test"), { responseCode: 451 });
  const { messages_count: count } = await (await request(server, "/api/v1/messages")).json();
  assert.equal(count, 1);
});

test("the password is wrong", async () => {
  await request(server, "/api/v1/chaos", "PUT", { Authentication: { Probability: 100 } });
  await assert.rejects(sendWelcomeMail("carol@far.test"), { code: "EAUTH", responseCode: 535 });
});

test("the certificate is not valid", async () => {
  const expired = await startMailServer("--certificate", "expired");
  const valid = server;
  try {
    server = expired;
    await assert.rejects(sendWelcomeMail("carol@far.test"), { message: /certificate has expired/ });
  } finally {
    server = valid;
    await expired.stop();
  }
});
