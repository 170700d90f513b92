"""The configurations of the POP3 servers that ``peers.running()`` starts; that of Courier is in ``smtp_peers``."""

from __future__ import annotations

from typing import Final

from tests.interop.peers import PASSWORD, Recipe
from tests.interop.smtp_peers import SASL_ACCOUNT

# popa3d and solid-pop3d are started by inetd: a process for each connection, which is its standard input and output.
_INETD: Final = """
import signal
import socket
import subprocess
import sys

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=64) as listener:
    while True:
        connection, _ = listener.accept()
        with connection:
            subprocess.Popen(sys.argv[2:], stdin=connection, stdout=connection)
"""

CYRUS: Final = Recipe(
    program="/usr/lib/cyrus/bin/pop3d",
    ports=("pop3", "pop3s", "lmtp"),
    files={
        "imapd.conf": """
configdirectory: /var/lib/cyrus
partition-default: /var/spool/cyrus
defaultpartition: default
admins: cyrus
servername: mail.example.test
allowplaintext: yes
allowapop: yes
popminpoll: 0
failedloginpause: 0
poptimeout: 10
duplicatesuppression: no
autocreate_quota: 0
unixhierarchysep: yes
lmtpsocket: /run/cyrus/lmtp
idlesocket: /run/cyrus/idle
notifysocket: /run/cyrus/notify
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: /srv/sasldb
sasl_mech_list: PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256
tls_server_cert: /srv/certificate.pem
tls_server_key: /srv/certificate.pem
tls_client_ca_file: /srv/authority.pem
tls_session_timeout: 0
""",
        "cyrus.conf": """
START {
  recover cmd="/usr/lib/cyrus/bin/ctl_cyrusdb -C /srv/imapd.conf -r"
}
SERVICES {
  pop3 cmd="/usr/lib/cyrus/bin/pop3d -C /srv/imapd.conf" listen="127.0.0.1:@pop3@" prefork=0
  pop3s cmd="/usr/lib/cyrus/bin/pop3d -C /srv/imapd.conf -s" listen="127.0.0.1:@pop3s@" prefork=0
  lmtp cmd="/usr/lib/cyrus/bin/lmtpd -C /srv/imapd.conf -a" listen="127.0.0.1:@lmtp@" prefork=0
}
EVENTS {
}
""",
    },
    start=f"""{SASL_ACCOUNT}
mkdir -p var/lib/cyrus/db var/lib/cyrus/socket var/lib/cyrus/proc var/lib/cyrus/log var/lib/cyrus/msg \\
    var/spool/cyrus run/cyrus
chown -R cyrus var/lib/cyrus var/spool/cyrus run/cyrus certificate.pem
exec /usr/lib/cyrus/bin/master -C /srv/imapd.conf -M /srv/cyrus.conf -p /run/cyrus/master.pid -D
""",
)

DOVECOT: Final = Recipe(
    program="/usr/lib/dovecot/pop3",
    ports=("pop3", "pop3s"),
    files={
        "dovecot.conf": """
base_dir = /run/dovecot
state_dir = /var/lib/dovecot
log_path = /dev/stderr
mail_location = maildir:~/Maildir
first_valid_uid = 1000
protocols = pop3
listen = 127.0.0.1
hostname = mail.example.test
ssl = yes
ssl_cert = </srv/certificate.pem
ssl_key = </srv/certificate.pem
ssl_ca = </srv/authority.pem
ssl_require_crl = no
ssl_verify_client_cert = yes
auth_ssl_username_from_cert = yes
auth_mechanisms = plain login cram-md5 apop scram-sha-1 scram-sha-256 external
auth_failure_delay = 0
disable_plaintext_auth = no
pop3_lock_session = yes
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service pop3-login {
  inet_listener pop3 {
    port = @pop3@
  }
  inet_listener pop3s {
    port = @pop3s@
    ssl = yes
  }
}
passdb {
  driver = static
  mechanisms = external
  args = nopassword=y
}
passdb {
  driver = passwd-file
  args = /srv/users
}
userdb {
  driver = static
  args = uid=alice gid=alice home=/srv/mail/%u
}
""",
        "users": "alice:{PLAIN}@password@\n",
    },
    start="""
mkdir -p var/lib/dovecot mail/alice/Maildir/new mail/alice/Maildir/cur mail/alice/Maildir/tmp
chown -R alice mail/alice
exec dovecot -F -c /srv/dovecot.conf
""",
)

MAILUTILS: Final = Recipe(
    program="/usr/bin/popauth",
    ports=("pop3", "pop3s"),
    files={
        "mailutils.conf": """
mailbox {
  mail-spool /var/mail;
  mailbox-type mbox;
}
logging {
  syslog no;
  severity debug;
}
tls-file-checks {
  key-file none;
}
apop-database-file "/srv/apop";
apop-database-owner root;
apop-database-safety none;
tls {
  ssl-certificate-file /srv/certificate.pem;
  ssl-key-file /srv/certificate.pem;
}
server 127.0.0.1:@pop3@ {
  tls-mode ondemand;
}
server 127.0.0.1:@pop3s@ {
  tls-mode connection;
}
""",
    },
    start="""
popauth --create --output /srv/apop </dev/null
popauth --add --file /srv/apop --user alice --password '@password@'
exec /usr/sbin/pop3d --config-file /srv/mailutils.conf --daemon=50 --foreground
""",
)

POPA3D: Final = Recipe(
    program="/usr/sbin/popa3d",
    ports=("pop3",),
    files={"inetd.py": _INETD},
    start="""
mkdir -p var/empty var/lib/popa3d
exec @python@ inetd.py @pop3@ /usr/sbin/popa3d
""",
)

SOLID_POP3D: Final = Recipe(
    program="/usr/sbin/solid-pop3d",
    ports=("pop3",),
    files={
        "inetd.py": _INETD,
        "etc/spop3d.conf": """
<Global>
  MailDropName "/var/mail/%s"
  MailDropType mailbox
  AllowAPOP yes
  UserOverride yes
  APOPServerName "mail.example.test"
</Global>
""",
        "home/alice/.spop3d": f"APOPSecret {bytes(0xFF ^ byte for byte in PASSWORD.encode()).hex()}\n",
    },
    start="""
mkdir -p var/lib/solid-pop3d/bulletins
chown alice home/alice/.spop3d
chmod 600 home/alice/.spop3d
exec @python@ inetd.py @pop3@ /usr/sbin/solid-pop3d
""",
)
