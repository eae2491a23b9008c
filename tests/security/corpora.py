"""What attackers send: texts for places that expect something else."""

from typing import Final
from urllib.parse import quote

SQL: Final = (
    "'", "''", '"', "\\", "\\'", ";", "--", "/*", "*/", "$$", "$1", ":status", "%s", "%(id)s", "{0}",
    "' OR '1'='1", "' OR 1=1 --", "') OR ('1'='1", "1 OR 1=1", "1; DROP TABLE background_jobs; --",
    "'; DROP TABLE background_jobs; --", "'); DELETE FROM jobs_live; --",
    "' UNION SELECT secret_hash::text FROM api_keys --", "' AND 1=(SELECT count(*) FROM api_keys) --",
    "' || (SELECT pg_sleep(10)) || '", "'; SELECT pg_sleep(10); --", "1 AND (SELECT pg_sleep(10)) IS NULL",
    "' AND CAST((SELECT version()) AS int)=1 --", "' || current_user || '", "x' ORDER BY 99 --",
    "\u02bc OR 1=1 --", "\uff07 OR \uff07x\uff07=\uff07x", "%27%20OR%201=1", "%%", "_", "%", "\\%", "[a-z]*",
    "'::jsonb", "E'\\x27'", "U&'\\0027'", "COPY api_keys TO PROGRAM 'id'", "\x1b[31m", "a" * 5000,
)  # fmt: skip
SHELL: Final = (
    "$(id)",
    "`id`",
    "| id",
    "; id",
    "&& id",
    "\n id",
    "${7*7}",
    "{{7*7}}",
    "#{7*7}",
    "<%= 7*7 %>",
)
PATHS: Final = (
    "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "..\\..\\x", "%2e%2e/", "....//", "/etc/passwd",
    "file:///etc/passwd", "%00", "a%00b", ".git/config", "%c0%ae%c0%ae/", "\u2024\u2024/x",
)  # fmt: skip
HTML: Final = (
    "<script>alert(1)</script>", "\"><script>alert(1)</script>", "'><img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>", "javascript:alert(1)", "</title><script>alert(1)</script>",
    "</script><script>alert(1)</script>", "<!--", "]]>", "<iframe src=//x>", "&#60;script&#62;",
    "\u003cscript\u003ealert(1)", "<math><mi//xlink:href=\"data:x,<script>alert(1)</script>\">",
    "<a href=\"javascript:alert(1)\">x</a>", "{{constructor.constructor('alert(1)')()}}", "<base href=//x>",
    "<meta http-equiv=refresh content=\"0;url=//x\">", "<style>@import'//x'</style>",
)  # fmt: skip
LINES: Final = (
    "a\r\nBcc: eve@example.org", "a\nBcc: eve@example.org", "a\rBcc: eve@example.org",
    "a\r\n\r\nbody", "a\n.\nMAIL FROM:<eve@example.org>", "a\r\n.\r\nRCPT TO:<eve@example.org>",
    "a%0d%0aBcc: eve@example.org", "a\u2028Bcc: eve@example.org", "a\u2029Bcc: eve@example.org",
    "a\x85Bcc: eve@example.org", "a\x0bBcc: eve@example.org", "a\x0cBcc: eve@example.org",
    "a\x1cBcc: eve@example.org", "=?utf-8?q?a=0d=0aBcc:_eve=40example.org?=",
    "=?UTF-8?B?YQ0KQmNjOiBldmVAZXhhbXBsZS5vcmc=?=", "=?utf-8*en?q?a=0d=0aBcc:_eve=40example.org?=",
    "x =?us-ascii?Q?=0aBcc:_eve?= =?utf-8?q?=0d?= y", "==??utf-8?q?=0d=0aBcc:_eve?=",
    "=?utf-8?q?=3D=3Futf-8=3Fq=3F=0d=0aBcc:eve=3F=3D?=", "=\r?utf-8?q?=0d=0aBcc:_eve?=",
    "=?utf-8?q?=0d=0a=0d=0abody?=", "=?utf-7?q?+AA0ACg-Bcc:_eve?=", "a\u560d\u560aBcc: eve",
    "a\r\n Bcc: eve@example.org", "a\r\n\tBcc: eve@example.org", "a\r\nSubject: mine\r\nTo: eve@example.org",
)  # fmt: skip
TEXTS: Final = SQL + SHELL + PATHS + HTML + LINES

_HOSTS: Final = (
    "127.0.0.1", "localhost", "LOCALHOST", "localhost.", "127.1", "127.0.1", "127.127.127.127", "0", "0.0.0.0",
    "2130706433", "0x7f000001", "0x7f.0x0.0x0.0x1", "0177.0.0.1", "017700000001", "0x7f.1", "127.0.0.1.",
    "%31%32%37.0.0.1", "\uff11\uff12\uff17.0.0.1", "\u2460\u2461\u2466.0.0.1", "[::1]", "[::]",
    "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[fe80::1%25lo]",
    "127.0.0.1.example.org", "localtest.me", "127-0-0-1.example.org", "user@127.0.0.1", "example.org@127.0.0.1",
    "example.org:80@127.0.0.1", "127.0.0.1#@example.org", "127.0.0.1?@example.org", "example.org\\@127.0.0.1",
    "169.254.169.254", "metadata.google.internal", "[fd00:ec2::254]", "100.100.100.200", "192.168.0.1",
    "10.0.0.1", "172.16.0.1", "0251.0376.0251.0376", "2852039166", "rebinding.test", "ⓛocalhost",
)  # fmt: skip
_SCHEMES: Final = (
    "http://{}/", "https://{}/", "//{}/", "http:{}", "http:\\\\{}\\", "gopher://{}/_x", "ftp://{}/",
    "dict://{}/", "ldap://{}/", "file://{}/etc/passwd", "jar:http://{}!/", "smtp://{}/", "ws://{}/",
)  # fmt: skip


def addresses(port: int) -> tuple[str, ...]:
    """Spellings of addresses that a server should not be made to call, with our port in them."""
    plain = [f"http://{host}:{port}/" for host in _HOSTS]
    schemes = [scheme.format(f"127.0.0.1:{port}") for scheme in _SCHEMES]
    twice = [quote(plain[0], safe=""), quote(quote(plain[0], safe=""), safe=""), f"\t{plain[0]}\n"]
    return (*plain, *schemes, *twice)
