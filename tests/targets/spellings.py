"""Spellings of addresses that no target may have, as they are known to get past checks of URLs.

`{port}` is the port of a listener on loopback, to which every name leads as well.
"""

from typing import Final

SPELLINGS: Final = (
    # Loopback, plain and in other forms of IPv4.
    "http://127.0.0.1:{port}/", "http://127.0.0.1.:{port}/", "http://127.1:{port}/",
    "http://127.0.1:{port}/", "http://127.127.127.127:{port}/", "http://0:{port}/",
    "http://0.0.0.0:{port}/", "http://2130706433:{port}/", "http://017700000001:{port}/",
    "http://0177.0.0.1:{port}/", "http://0x7f000001:{port}/", "http://0x7f.0x0.0x0.0x1:{port}/",
    "http://0x7F.1:{port}/", "http://127.0.0.0x1:{port}/", "http://0000127.0.0.1:{port}/",
    "http://127.00.0.1:{port}/", "http://4294967297:{port}/", "http://340282366920938463463374607431768211457:{port}/",
    "http://127.0.0.1%00.example.com:{port}/", "http://127.0.0.1%2eexample.com:{port}/",
    "http://%31%32%37.0.0.1:{port}/", "http://127%2E0%2E0%2E1:{port}/",
    # Loopback in IPv6, and IPv4 inside IPv6.
    "http://[::1]:{port}/", "http://[0:0:0:0:0:0:0:1]:{port}/", "http://[::]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/", "http://[::ffff:7f00:1]:{port}/", "http://[::127.0.0.1]:{port}/",
    "http://[::ffff:0:127.0.0.1]:{port}/", "http://[64:ff9b::127.0.0.1]:{port}/", "http://[64:ff9b::7f00:1]:{port}/",
    "http://[64:ff9b:1::7f00:1]:{port}/", "http://[2002:7f00:1::]:{port}/",
    "http://[2001:0:7f00:1::]:{port}/", "http://[2001:0:53aa:64c:0:0:80ff:fffe]:{port}/",
    "http://[fe80::5efe:127.0.0.1]:{port}/", "http://[::1%25lo]:{port}/", "http://[fe80::1%25eth0]:{port}/",
    "http://[::1%lo]:{port}/", "http://[::1]x:{port}/", "http://[::1:{port}/", "http://::1:{port}/",
    # Names that lead home.
    "http://localhost:{port}/", "http://LOCALHOST:{port}/", "http://localhost.:{port}/",
    "http://localhost.localdomain:{port}/", "http://localtest.me:{port}/", "http://127.0.0.1.nip.io:{port}/",
    "http://spoofed.burpcollaborator.net:{port}/", "http://ip6-localhost:{port}/", "http://a..b:{port}/",
    "http://localhost..:{port}/", "http://metadata.google.internal:{port}/", "http://kubernetes.default.svc:{port}/",
    # Other digits, dots and letters, which IDNA maps to ASCII.
    "http://①②⑦.⓪.⓪.①:{port}/", "http://１２７.０.０.１:{port}/", "http://127。0。0。1:{port}/",
    "http://127｡0｡0｡1:{port}/", "http://127．0．0．1:{port}/", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/",
    "http://ｌｏｃａｌｈｏｓｔ:{port}/", "http://loc\u00adalhost:{port}/", "http://local\u200bhost:{port}/",
    "http://٠:{port}/",
    # Users, backslashes, fragments and controls, where parsers differ about the host.
    "http://example.com@127.0.0.1:{port}/", "http://127.0.0.1:{port}@example.com/", "http://a:b@127.0.0.1:{port}/",
    "http://example.com:80@127.0.0.1:{port}/", "http://127.0.0.1:{port}\\@example.com/",
    "http://example.com\\@127.0.0.1:{port}/", "http:\\\\127.0.0.1:{port}/", "http:/\\127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@example.com/", "http://example.com#@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}?@example.com/#x", "http://127.0.0.1:{port}\t/", "http://127.0.0.1:{port}\r\nHost: example.com/",
    "http://127.0.0.1 .example.com:{port}/", "http://example.com\x00@127.0.0.1:{port}/", " http://127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/", "http:///127.0.0.1:{port}/", "//127.0.0.1:{port}/", "127.0.0.1:{port}/",
    "http://127.0.0.1:00{port}/", "http://127.0.0.1:{port}:80/", "http://127.0.0.1: {port}/",
    # Other schemes.
    "file:///etc/passwd", "gopher://127.0.0.1:{port}/_GET", "ftp://127.0.0.1:{port}/", "dict://127.0.0.1:{port}/",
    "unix:///var/run/docker.sock", "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "jar:http://127.0.0.1:{port}/!/",
    "javascript:alert(1)", "data:text/html,x", "ldap://127.0.0.1:{port}/", "netdoc:///etc/passwd", "ws://127.0.0.1:{port}/",
    # Other networks.
    "http://10.0.0.1:{port}/", "http://172.16.0.1:{port}/", "http://172.31.255.255:{port}/", "http://192.168.1.1:{port}/",
    "http://169.254.169.254:{port}/latest/meta-data/", "http://[::ffff:169.254.169.254]:{port}/",
    "http://[64:ff9b::a9fe:a9fe]:{port}/", "http://2852039166:{port}/", "http://0xa9fea9fe:{port}/",
    "http://[fd00:ec2::254]:{port}/", "http://168.63.129.16:{port}/", "http://100.100.100.200:{port}/",
    "http://100.64.0.1:{port}/", "http://192.0.0.192:{port}/", "http://192.0.2.1:{port}/", "http://198.18.0.1:{port}/",
    "http://198.51.100.1:{port}/", "http://203.0.113.1:{port}/", "http://224.0.0.1:{port}/", "http://239.255.255.250:{port}/",
    "http://240.0.0.1:{port}/", "http://255.255.255.255:{port}/", "http://[fc00::1]:{port}/", "http://[fd12:3456::1]:{port}/",
    "http://[fec0::1]:{port}/", "http://[ff02::1]:{port}/", "http://[2001:db8::1]:{port}/", "http://[3fff::1]:{port}/",
    "http://[100::1]:{port}/", "http://[5f00::1]:{port}/", "http://[2001:10::1]:{port}/", "http://[1::1]:{port}/",
)  # fmt: skip
