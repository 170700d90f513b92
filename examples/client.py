"""Submit a message as alice to the port that examples/server.py prints: ``python examples/client.py PORT``."""

import sys

from mailauth_io.client import ClientError, sync

MESSAGE = b"From: alice@example.test\r\nTo: dinah@example.org\r\nSubject: test\r\n\r\nDown the rabbit-hole.\r\n"
SENDER, RECIPIENTS, LOGIN = "alice@example.test", ["dinah@example.org"], ("alice", "wonderland")

try:
    port = int(sys.argv[1])
    result = sync.submit(MESSAGE, SENDER, RECIPIENTS, host="127.0.0.1", port=port, login=LOGIN, tls="none")
    result.raise_for_rejected()
    print(*result.replies.values())
except (IndexError, ValueError, ClientError) as error:
    sys.exit(f"not delivered: {error}" if sys.argv[1:] else __doc__)
