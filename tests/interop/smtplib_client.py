# Submits the messages of a folder: argv is host, port, folder. N.eml is the content, N.rcpt its recipients.
import pathlib
import smtplib
import sys

host, port, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
with smtplib.SMTP(host, port, local_hostname="python.test") as client:
    for path in sorted(folder.glob("*.eml")):
        recipients = path.with_suffix(".rcpt").read_text().split()
        options = ["BODY=8BITMIME"] if not path.read_bytes().isascii() else []
        refused = client.sendmail(f"python-{path.stem}@senders.test", recipients, path.read_bytes(), options)
        assert not refused, refused
