"""The configurations of the SMTP servers that ``peers.running()`` starts.

Each accepts mail for the mailboxes of ``peers`` and has TLS on both ports.  The account has every mechanism that the
server offers.  Some of them reject mail for blocked@example.test with a code of the site, and messages with the field
``X-Reject``.
"""

from __future__ import annotations

from typing import Final

from tests.interop.peers import Recipe

_PORTS: Final = ("smtp", "smtps")

# Cyrus SASL, which Postfix, Exim, sendmail and Cyrus use.

SASL: Final = """
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: /srv/sasldb
"""
SASL_ACCOUNT: Final = """
printf %s '@password@' | saslpasswd2 -c -p -f sasldb -u mail.example.test alice
chmod 644 sasldb
"""

# Only the port with implicit TLS requires a login, and it does not offer CHUNKING.

POSTFIX: Final = Recipe(
    program="/usr/sbin/postfix",
    ports=(*_PORTS, "impatient"),
    files={
        "etc/postfix/main.cf": """
compatibility_level = 3.6
myhostname = mail.example.test
mydestination =
mynetworks =
inet_interfaces = loopback-only
inet_protocols = ipv4
maillog_file = /dev/stdout
alias_maps =
local_recipient_maps =
virtual_mailbox_domains = example.test far.test
virtual_mailbox_maps = inline:{ {alice@example.test=alice/} {dinah@far.test=dinah/} {grün@example.test=green/} }
virtual_mailbox_base = /srv/mail
virtual_uid_maps = static:7000
virtual_gid_maps = static:7000
virtual_mailbox_limit = 0
message_size_limit = @limit@
smtpd_sasl_auth_enable = yes
smtpd_sasl_security_options = noanonymous
cyrus_sasl_config_path = /etc/postfix/sasl
smtpd_tls_security_level = may
smtpd_tls_chain_files = /srv/certificate.pem
smtpd_relay_restrictions = permit_sasl_authenticated reject_unauth_destination
smtpd_recipient_restrictions = check_recipient_access inline:{
    {blocked@example.test=571 5.7.1 Blocked} {blocked@far.test=571 5.7.1 Blocked} } permit
smtpd_recipient_limit = 20
smtpd_hard_error_limit = 20
smtpd_error_sleep_time = 0
broken_sasl_auth_clients = yes
recipient_delimiter = +
header_checks = regexp:{ {/^X-Reject:/ REJECT no} }
""",
        "etc/postfix/master.cf": """
127.0.0.1:@smtp@ inet n - n - - smtpd
127.0.0.1:@impatient@ inet n - n - - smtpd
  -o smtpd_timeout=1s
127.0.0.1:@smtps@ inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
  -o smtpd_discard_ehlo_keywords=chunking
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
""",
        "etc/postfix/sasl/smtpd.conf": SASL,
    },
    # "postfix start" would create these directories and check the installation, which takes seconds.
    start=f"""{SASL_ACCOUNT}
mkdir -p var/lib/postfix var/spool/postfix
(cd var/spool/postfix && mkdir active bounce corrupt defer deferred flush hold incoming private saved trace \\
    && chown postfix * ../../lib/postfix && mkdir pid maildrop public && chown postfix:postdrop maildrop public)
touch -d yesterday etc/postfix/* # Postfix waits until a new configuration is some seconds old
exec /usr/lib/postfix/sbin/master -c /etc/postfix -s
""",
)

EXIM: Final = Recipe(
    program="/usr/sbin/exim4",
    ports=_PORTS,
    files={
        "etc/exim4/exim4.conf": """
primary_hostname = mail.example.test
local_interfaces = 127.0.0.1
daemon_smtp_ports = @smtp@ : @smtps@
tls_on_connect_ports = @smtps@
log_file_path = /srv/exim/%slog
spool_directory = /srv/exim
tls_advertise_hosts = *
tls_certificate = /srv/certificate.pem
tls_verify_certificates = /srv/authority.pem
tls_try_verify_hosts = *
message_size_limit = @limit@
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
chunking_advertise_hosts = ${if eq{$received_port}{@smtps@}{}{*}}
rfc1413_query_timeout = 0s
smtp_accept_max = 0
host_lookup =
keep_environment =
acl_smtp_mail = sender
acl_smtp_rcpt = recipient
acl_smtp_data = content
acl_smtp_vrfy = accept

begin acl
sender:
  deny condition = ${if eq{$received_port}{@smtps@}}
       ! authenticated = *
  accept
recipient:
  deny message = 571 5.7.1 Blocked
       local_parts = blocked
  require verify = recipient
  accept
content:
  deny condition = ${if def:h_X-Reject:}
       message = 5.7.1 no
  accept

begin routers
mailboxes:
  driver = accept
  domains = example.test : far.test
  local_parts = alice : dinah : grün
  transport = maildir

begin transports
maildir:
  driver = appendfile
  directory = /srv/mail/$local_part_data
  maildir_format
  user = alice

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{ {eq{$auth2}{alice}} {eq{$auth3}{@password@}} }}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${if and{ {eq{$auth1}{alice}} {eq{$auth2}{@password@}} }}
  server_set_id = $auth1
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${if eq{$auth1}{alice}{@password@}fail}
  server_set_id = $auth1
scram_sha_1:
  driver = cyrus_sasl
  public_name = SCRAM-SHA-1
  server_realm = mail.example.test
  server_set_id = $auth1
scram_sha_256:
  driver = cyrus_sasl
  public_name = SCRAM-SHA-256
  server_realm = mail.example.test
  server_set_id = $auth1
external:
  driver = external
  public_name = EXTERNAL
  server_advertise_condition = $tls_in_certificate_verified
  server_param2 = ${certextract{subj_altname,dns,>:}{$tls_in_peercert}}
  server_condition = ${if inlist{$auth1}{$auth2}}
  server_set_id = $auth1
""",
        "etc/sasl2/exim.conf": SASL,
    },
    start=f"""{SASL_ACCOUNT}
mkdir exim
chown Debian-exim exim
chgrp Debian-exim certificate.pem sasldb
chmod 640 certificate.pem
exec exim4 -bdf -q30m
""",
)

SENDMAIL: Final = Recipe(
    program="/usr/libexec/sendmail/sendmail",
    ports=_PORTS,
    files={
        "sendmail.mc": """
include(`/usr/share/sendmail/cf/m4/cf.m4')
OSTYPE(`linux')
define(`confDOMAIN_NAME', `mail.example.test')
define(`confDONT_BLAME_SENDMAIL', `GroupReadableKeyFile,GroupReadableSASLDBFile')
define(`confMAX_MESSAGE_SIZE', `@limit@')
define(`confBIND_OPTS', `-DNSRCH -DEFNAMES')
define(`confTO_IDENT', `0')
define(`confSERVICE_SWITCH_FILE', `/srv/service.switch')
define(`confSERVER_CERT', `/srv/certificate.pem')
define(`confSERVER_KEY', `/srv/certificate.pem')
define(`confCACERT', `/srv/authority.pem')
define(`confCACERT_PATH', `/srv')
define(`confAUTH_MECHANISMS', `EXTERNAL SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 LOGIN PLAIN')
define(`confPID_FILE', `/srv/sendmail.pid')
define(`STATUS_FILE', `/srv/statistics')
define(`QUEUE_DIR', `/srv/queue')
undefine(`ALIAS_FILE')
TRUST_AUTH_MECH(`EXTERNAL SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 LOGIN PLAIN')
DAEMON_OPTIONS(`Port=@smtp@, Addr=127.0.0.1, Name=smtp')
DAEMON_OPTIONS(`Port=@smtps@, Addr=127.0.0.1, Name=smtps, M=s')
FEATURE(`no_default_msa')
FEATURE(`nocanonify')
FEATURE(`accept_unresolvable_domains')
FEATURE(`access_db', `hash -T<TMPF> /srv/access')
FEATURE(`blocklist_recipients')
LOCAL_DOMAIN(`example.test far.test')
define(`LOCAL_MAILER_PATH', `/bin/sh')
define(`LOCAL_MAILER_FLAGS', `n8')
define(`LOCAL_MAILER_ARGS', `sh /srv/deliver $u')
MAILER(local)
MAILER(smtp)
""",
        "access.txt": "To:blocked@example.test ERROR:5.7.1:571 Blocked\nTo:blocked@far.test ERROR:5.7.1:571 Blocked\n",
        "deliver": "umask 022\ncat >$(mktemp -u /srv/mail/XXXXXXXXXX)\n",
        "etc/sasl2/Sendmail.conf": SASL,
        "service.switch": "hosts files\naliases files\n",
    },
    start=f"""{SASL_ACCOUNT}
ln -s /usr/share/sendmail/cf cf
m4 -I /usr/share/sendmail/cf sendmail.mc >sendmail.cf
mkdir queue
/usr/libexec/sendmail/makemap -C sendmail.cf hash access <access.txt
exec /usr/libexec/sendmail/sendmail -bD -q30m -C /srv/sendmail.cf -X /dev/null
""",
)

# This version offers STARTTLS, but every handshake fails with OpenSSL 3.  It accepts no login without TLS.
OPENSMTPD: Final = Recipe(
    program="/usr/sbin/smtpctl",
    ports=("smtp",),
    files={
        "smtpd.conf": """
pki mail.example.test cert "/srv/certificate.pem"
pki mail.example.test key "/srv/certificate.pem"
smtp max-message-size "@limit@"
listen on 127.0.0.1 port @smtp@ tls pki mail.example.test hostname mail.example.test
action store maildir "/srv/mail/%{user.username}"
match from any for domain { "example.test", "far.test" } action store
""",
    },
    start="""
mkdir -p var/spool/smtpd var/lib/opensmtpd/empty
chmod 711 var/spool/smtpd
exec smtpd -d -f smtpd.conf
""",
)

COURIER: Final = Recipe(
    program="/usr/lib/courier/courier/courierd",
    ports=("smtp", "smtps", "pop3", "pop3s"),
    files={
        "courier/me": "mail.example.test\n",
        "courier/locals": "mail.example.test\nexample.test\nfar.test\n",
        "courier/defaultdomain": "example.test\n",
        "courier/dsnfrom": "postmaster\n",
        "courier/esmtpacceptmailfor": "example.test\nfar.test\n",
        "courier/sizelimit": "@limit@\n",
        "courier/authdaemonrc": """
authmodulelist=authuserdb
authdaemonvar=/run/courier/authdaemon
daemons=1
DEFAULTOPTIONS=
""",
        "environment": """
BOFHCHECKDNS=0
BOFHNOVRFY=0
TARPIT=0
COURIERTLS=/usr/bin/couriertls
TLS_CERTFILE=/srv/certificate.pem
TLS_TRUSTCERTS=/srv/authority.pem
TLS_VERIFYPEER=PEER
TLS_EXTERNAL=CN
ESMTPAUTH="PLAIN LOGIN CRAM-MD5"
ESMTPAUTH_TLS="PLAIN LOGIN CRAM-MD5 EXTERNAL"
POP3AUTH="PLAIN LOGIN CRAM-MD5"
POP3AUTH_TLS="PLAIN LOGIN CRAM-MD5 EXTERNAL"
POP3_STARTTLS=YES
MAILUSER=courier
MAILGROUP=courier
DYNAMICDELIVERIES=1
DEFAULTDELIVERY=./Maildir
DSNTOAUTHADDR=0
ESMTP_BLOCKBACKSCATTER=
prefix=/usr
exec_prefix=/usr
sysconfdir=/etc/courier
""",
    },
    start="""
cp -rn /etc/courier/. courier
mount --bind courier /etc/courier
mkdir -p run/courier/authdaemon var/lib/courier
for directory in allfilters filters msgq msgs track tmp tmp/broken; do mkdir -p var/lib/courier/$directory; done
mkdir -p courier/aliases courier/aliasdir courier/esmtpacceptmailfor.dir courier/hosteddomains
chmod 640 certificate.pem
chgrp courier certificate.pem
password='@crypted@'
digest=$(printf '%s\\n%s\\n' '@password@' '@password@' | userdbpw -hmac-md5)
for name in alice dinah grün; do
    mkdir mail/$name
    maildirmake.courier mail/$name/Maildir
    printf '%s\\tuid=%s|gid=%s|home=/srv/mail/%s|systempw=%s|hmac-md5pw=%s\\n' \\
        $name $(id -u alice) $(id -g alice) $name "$password" "$digest"
done >courier/userdb
chown -R alice mail/*
chmod 600 courier/userdb
makeuserdb
makealiases
chown -R courier:courier var/lib/courier run/courier courier
chown root courier/userdb*
set -a
. ./environment
. courier/authdaemonrc
/usr/lib/courier/courier-authlib/authdaemond &
until authtest alice >authtest.log 2>&1; do sleep 0.05; done
/usr/lib/courier/courier/courierd &
listen() { couriertcpd -address=127.0.0.1 -nodnslookup -noidentlookup -maxperip=99 -maxprocs=99 "$@"; }
esmtpd="/usr/sbin/courieresmtpd"
pop3d="/usr/lib/courier/courier/courierpop3login /usr/lib/courier/courier/courierpop3d Maildir"
listen -user=courier -group=courier @smtp@ $esmtpd &
ESMTP_TLS=1 listen @smtps@ $COURIERTLS -server -tcpd -user=courier $esmtpd &
listen @pop3@ $pop3d &
export POP3_TLS=1
listen @pop3s@ $COURIERTLS -server -tcpd -user=courier $pop3d
""",
)
