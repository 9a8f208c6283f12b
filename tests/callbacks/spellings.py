"""How strangers spell addresses that they must not reach, and names that turn out to be such addresses."""

# ruff: noqa: RUF001, SIM905

# Ways to write a host in an address. `{port}` is a port where a server listens on the loopback.
LOOPBACK = r"""
127.0.0.1 127.0.0.2 127.255.255.254 127.1 127.0.1 127.00.00.01 0 0.0.0.0 0x0 0.0 00000 2130706433 017700000001
0x7f000001 0x7F.0x0.0x0.0x1 0x7f.1 0177.0.0.1 0177.1 0177.0x0.1 127.0.0.01 127.0.0.1. 127.0.0.1.. 0x7f.0.1
localhost LOCALHOST localhost. localhost.. app.localhost a.b.localhost. LocalHost.
[::1] [::] [0:0:0:0:0:0:0:1] [0000:0000:0000:0000:0000:0000:0000:0001] [::0001] [::127.0.0.1] [::7f00:1]
[::ffff:127.0.0.1] [::ffff:7f00:1] [::FFFF:127.0.0.1] [0:0:0:0:0:ffff:7f00:1] [::ffff:0:127.0.0.1]
[64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [2002:7f00:1::] [2002:7f00:0001::1]
[2001:0:4136:e378:8000:63bf:80ff:fffe] [fe80::5efe:7f00:1] [2a00:1450::5efe:7f00:1] [::1%25lo] [::1%lo]
127。0。0。1 127．0．0．1 127｡0｡0｡1 ①②⑦.⓪.⓪.① １２７.０.０.１ ⓛⓞⓒⓐⓛⓗⓞⓢⓣ ｌｏｃａｌｈｏｓｔ 𝟏𝟐𝟕.0.0.1
%31%32%37.0.0.1 127%2e0%2e0%2e1
127.0.0.1%00 127.0.0.1%09 user@127.0.0.1 user:secret@127.0.0.1 good.example@127.0.0.1 127.0.0.1\@good.example
""".split()

SITE = """
10.0.0.1 10.255.255.255 10.1 167772161 0x0a000001 012.0.0.1 172.16.0.1 172.31.255.255 0xac100001 192.168.0.1 192.168.1
3232235777 0300.0250.1.1 100.64.0.1 100.127.255.255 0.1.2.3 [fc00::1] [fd12:3456:789a::1] [::ffff:10.0.0.1]
[::ffff:192.168.1.1] [64:ff9b::a00:1]
""".split()

NEVER = """
169.254.169.254 169.254.169.254. 2852039166 0xa9fea9fe 0251.0376.0251.0376 0xa9.0xfe.0xa9.0xfe 169.254.43518
169.254.170.2 169.254.0.1 100.100.100.200 168.63.129.16 192.0.0.192 192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1
192.175.48.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 4294967295
[fe80::1] [fe80::a9fe:a9fe] [febf::1] [fec0::1] [ff02::1] [ff0e::1] [fd00:ec2::254] [fd20:ce::254]
[::ffff:169.254.169.254] [::ffff:a9fe:a9fe] [::169.254.169.254] [64:ff9b::a9fe:a9fe] [2002:a9fe:a9fe::1] [2001::1]
[2001:db8::1] [2001:10::1] [2620:4f:8000::1] [3fff::1] [100::1] [4000::1] [5f00::1] [2a00:1450::200:5efe:a9fe:a9fe]
""".split()

HOSTS = [*LOOPBACK, *SITE, *NEVER]

# Names, and what a name server says of them: one answer after the other.
NAMES = {
    "loopback.example": [["127.0.0.1"]],
    "six.loopback.example": [["::1"]],
    "mapped.example": [["::ffff:127.0.0.1"]],
    "any.example": [["0.0.0.0"]],
    "site.example": [["10.0.0.7"]],
    "unique-local.example": [["fd12::1"]],
    "metadata.google.internal": [["169.254.169.254"]],
    "metadata.six.example": [["fd00:ec2::254"]],
    "one-of-two.example": [["93.184.215.14", "127.0.0.1"]],
    "the-other-of-two.example": [["127.0.0.1", "93.184.215.14"]],
    "rebinding.example": [["127.0.0.1"], ["93.184.215.14"]],
    "nat64.example": [["64:ff9b::7f00:1"]],
    "six-to-four.example": [["2002:7f00:1::"]],
    "nobody.example": [[]],
    "nonsense.example": [["not an address"]],
    "127.0.0.1.nip.example": [["127.0.0.1"]],
    "xn--bcher-kva.example": [["127.0.0.1"]],
    "localhost.localdomain": [["127.0.0.1"]],
    "ip6-localhost": [["::1"]],
    "kubernetes.default.svc": [["10.96.0.1"]],
}

PORTS_OF_OTHERS = (1, 22, 23, 25, 53, 110, 143, 465, 587, 993)
