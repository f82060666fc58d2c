"""Sends a message for each way to authenticate: smtplib's PLAIN and LOGIN, and SCRAM-SHA-256 and -PLUS by RFC 5802.

Arguments: host, port of STARTTLS, port of implicit TLS, file of the certificate. Prints what each came to, one a line.
"""
import base64, hashlib, hmac, os, smtplib, ssl, sys

host, starttls, implicit, certificate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
context = ssl.create_default_context(cafile=certificate)
SENDER, TO = "python@shop.test", ["b@other.test"]
TEXT = "From: python@shop.test\r\nSubject: %s\r\n\r\nbody\r\n"


def client(kind):
    if kind == "implicit":
        one = smtplib.SMTP_SSL(host, implicit, "client.test", context=context)
    else:
        one = smtplib.SMTP(host, starttls, "client.test")
        one.starttls(context=context)
    one.ehlo()
    return one


def built_in(mechanism):
    def authenticate(one, password):
        one.user, one.password = "ann", password
        method = {"PLAIN": one.auth_plain, "LOGIN": one.auth_login}[mechanism]
        return one.auth(mechanism, method)[0]
    return authenticate


def scram(mechanism, header, binding):
    def authenticate(one, password):
        bare = "n=ann,r=" + base64.b64encode(os.urandom(18)).decode()
        b64 = lambda octets: base64.b64encode(octets).decode()
        code, first = one.docmd("AUTH", mechanism + " " + b64((header + bare).encode()))
        if code != 334:
            return code
        first = base64.b64decode(first).decode()
        parts = dict(part.split("=", 1) for part in first.split(","))
        assert parts["r"].startswith(bare[8:])
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(parts["s"]), int(parts["i"]))
        mac = lambda key, text: hmac.new(key, text, "sha256").digest()
        without = "c=%s,r=%s" % (b64(header.encode() + binding(one)), parts["r"])
        message = ",".join([bare, first, without]).encode()
        key = mac(salted, b"Client Key")
        proof = bytes(a ^ b for a, b in zip(key, mac(hashlib.sha256(key).digest(), message)))
        code, told = one.docmd(b64(("%s,p=%s" % (without, b64(proof))).encode()))
        if code != 334:
            return code
        assert base64.b64decode(told).decode() == "v=" + b64(mac(mac(salted, b"Server Key"), message))
        return one.docmd("")[0]
    return authenticate


def end_point(one):
    return hashlib.sha256(one.sock.getpeercert(True)).digest()


WAYS = {
    "PLAIN": built_in("PLAIN"),
    "LOGIN": built_in("LOGIN"),
    "SCRAM-SHA-256": scram("SCRAM-SHA-256", "n,,", lambda one: b""),
    "SCRAM-SHA-256-PLUS": scram("SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,", end_point),
}
for name, way in WAYS.items():
    for kind in ["starttls", "implicit"]:
        with client(kind) as one:
            assert name in one.esmtp_features["auth"].split(), one.esmtp_features
            try:
                refused = way(one, "wrong")
            except smtplib.SMTPAuthenticationError as error:
                refused = error.smtp_code
        with client(kind) as one:
            accepted = way(one, "right horse")
            one.sendmail(SENDER, TO, TEXT % name)
        print(name, kind, refused, accepted)
