// The smtp-server of nodemailer, with handlers that accept every message and discard it.
//
//   node server.js none|implicit|starttls [PEM FILE] ACCOUNT...
//
// Prints its port.  All accounts have the password in the environment variable PASSWORD.
"use strict";

const crypto = require("crypto");
const fs = require("fs");
const { SMTPServer } = require("smtp-server");

const [mode, file, ...accounts] = process.argv.slice(2);
const pem = mode === "none" ? undefined : fs.readFileSync(file);
const password = Buffer.from(process.env.PASSWORD);
let number = 0xabc123;

const server = new SMTPServer({
    name: "mail.example.test",
    size: 26214400,
    secure: mode === "implicit",
    cert: pem,
    key: pem,
    authMethods: ["PLAIN"],
    authOptional: true,
    allowInsecureAuth: true,
    disableReverseLookup: true,
    disabledCommands: mode === "starttls" ? [] : ["STARTTLS"],
    logger: false,
    onAuth(auth, session, callback) {
        const given = Buffer.from(auth.password);
        const right = given.length === password.length && crypto.timingSafeEqual(given, password);
        callback(null, accounts.includes(auth.username) && right ? { user: auth.username } : {});
    },
    onData(stream, session, callback) {
        stream.on("end", () => callback(null, `queued as ${(++number).toString(16).toUpperCase()}`));
        stream.resume();
    },
});
server.on("error", () => {});
server.listen(0, "127.0.0.1", () => console.log(server.server.address().port));
