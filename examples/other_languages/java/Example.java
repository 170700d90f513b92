// A test in Java without any library: java Example.java
//
// It starts `mailauth test-server`, sends mail by SMTP with STARTTLS, and reads it over HTTP.  With a mail library, only
// send() changes: pass it the host, the port, and an SSLContext that trusts the CA.

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.Socket;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

public class Example {
    public static void main(String[] arguments) throws Exception {
        try (MailServer server = MailServer.start("--user", "alice:secret")) {
            send(server, "carol@far.test", "Welcome", "Confirm: https://example.test/confirm?token=1");
            String found = server.waitForMessage("to:carol@far.test subject:Welcome");
            String message = server.request("GET", "/api/v1/message/" + text(found, "ID"), "");
            check("Welcome", text(message, "Subject"));
            check("alice", text(message, "Username"));
            check("Confirm: https://example.test/confirm?token=1\r\n", server.request("GET", "/view/latest.txt", ""));

            server.request("PUT", "/api/v1/chaos", "{\"Recipient\": {\"ErrorCode\": 451, \"Probability\": 100}}");
            try {
                send(server, "dave@far.test", "Welcome", "hello");
                throw new AssertionError("the recipient was accepted");
            } catch (IOException refused) {
                check("451", refused.getMessage().substring(0, 3));
            }

            check("ok", server.request("DELETE", "/api/v1/messages", ""));
            check("0", number(server.request("GET", "/api/v1/messages", ""), "total"));
        }
        System.out.println("passed");
    }

    /** The program under test. */
    static void send(MailServer server, String recipient, String subject, String body) throws Exception {
        try (Socket plain = new Socket(server.host, server.smtpPort)) {
            Smtp start = new Smtp(plain);
            start.expect("220");
            start.command("EHLO client.test", "250");
            start.command("STARTTLS", "220");
            SSLSocket secure =
                    (SSLSocket) server.trusted.getSocketFactory().createSocket(plain, server.host, server.smtpPort, true);
            SSLParameters parameters = secure.getSSLParameters();
            parameters.setEndpointIdentificationAlgorithm("HTTPS"); // checks the name in the certificate
            secure.setSSLParameters(parameters);
            Smtp smtp = new Smtp(secure);
            smtp.command("EHLO client.test", "250");
            byte[] login = ("\0alice\0secret").getBytes(StandardCharsets.UTF_8);
            smtp.command("AUTH PLAIN " + Base64.getEncoder().encodeToString(login), "235");
            smtp.command("MAIL FROM:<alice@example.test>", "250");
            smtp.command("RCPT TO:<" + recipient + ">", "250");
            smtp.command("DATA", "354");
            smtp.command(
                    String.join("\r\n", List.of("From: alice@example.test", "To: " + recipient, "Subject: " + subject, "",
                            body, ".")),
                    "250");
            smtp.command("QUIT", "221");
        }
    }

    /** Sends commands and reads replies. */
    static class Smtp {
        private final BufferedReader input;
        private final OutputStream output;

        Smtp(Socket socket) throws IOException {
            input = new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.US_ASCII));
            output = socket.getOutputStream();
        }

        void command(String line, String code) throws IOException {
            output.write((line + "\r\n").getBytes(StandardCharsets.UTF_8));
            output.flush();
            expect(code);
        }

        void expect(String code) throws IOException {
            String line;
            do {
                line = input.readLine();
            } while (line != null && line.length() > 3 && line.charAt(3) == '-');
            if (line == null || !line.startsWith(code)) {
                throw new IOException(line);
            }
        }
    }

    /** A running `mailauth test-server`. */
    static class MailServer implements AutoCloseable {
        final String host;
        final int smtpPort;
        final SSLContext trusted;
        private final Process process;
        private final String url;
        private final HttpClient http = HttpClient.newHttpClient();

        private MailServer(Process process, String description) throws Exception {
            this.process = process;
            host = text(description, "host");
            smtpPort = Integer.parseInt(number(description, "smtp_port"));
            url = text(description, "http_url");
            KeyStore authorities = KeyStore.getInstance(KeyStore.getDefaultType());
            authorities.load(null, null);
            byte[] authority = text(description, "ca").getBytes(StandardCharsets.US_ASCII);
            authorities.setCertificateEntry(
                    "ca",
                    CertificateFactory.getInstance("X.509").generateCertificate(new ByteArrayInputStream(authority)));
            TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
            managers.init(authorities);
            trusted = SSLContext.getInstance("TLS");
            trusted.init(null, managers.getTrustManagers(), null);
        }

        static MailServer start(String... options) throws Exception {
            // The pipe to its standard input is closed when this program ends, and that ends the server.
            List<String> command = new java.util.ArrayList<>(List.of("mailauth", "test-server", "--until-eof"));
            command.addAll(List.of(options));
            Process process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
            String line = process.inputReader().readLine();
            if (line == null) {
                throw new IOException("mailauth test-server has not started");
            }
            return new MailServer(process, line);
        }

        String request(String method, String path, String body) throws Exception {
            HttpRequest request =
                    HttpRequest.newBuilder(URI.create(url + path)).method(method, BodyPublishers.ofString(body)).build();
            var response = http.send(request, BodyHandlers.ofString());
            if (response.statusCode() != 200) {
                throw new IOException(method + " " + path + ": " + response.statusCode() + " " + response.body());
            }
            return response.body();
        }

        /** Return the newest message that the search finds, as in a list; wait until there is one. */
        String waitForMessage(String search) throws Exception {
            Instant deadline = Instant.now().plus(Duration.ofSeconds(5));
            String path = "/api/v1/search?limit=1&query=" + URLEncoder.encode(search, StandardCharsets.UTF_8);
            while (true) {
                String found = request("GET", path, "");
                if (!number(found, "messages_count").equals("0")) {
                    return found;
                }
                if (Instant.now().isAfter(deadline)) {
                    throw new AssertionError("no message for " + search);
                }
                Thread.sleep(20);
            }
        }

        @Override
        public void close() throws Exception {
            process.getOutputStream().close();
            check("0", String.valueOf(process.waitFor()));
        }
    }

    // The JDK has no parser for JSON; a program that has one uses it here.

    static String text(String json, String name) {
        Matcher found = Pattern.compile('"' + name + "\"\\s*:\\s*\"((?:[^\"\\\\]|\\\\.)*)\"").matcher(json);
        if (!found.find()) {
            throw new AssertionError("no " + name + " in " + json);
        }
        return found.group(1).replace("\\n", "\n");
    }

    static String number(String json, String name) {
        Matcher found = Pattern.compile('"' + name + "\"\\s*:\\s*([0-9]+)").matcher(json);
        if (!found.find()) {
            throw new AssertionError("no " + name + " in " + json);
        }
        return found.group(1);
    }

    static void check(String expected, String found) {
        if (!expected.equals(found)) {
            throw new AssertionError("expected " + expected + ", not " + found);
        }
    }
}
