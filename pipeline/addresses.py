"""What of an address may be shown: no user, no password, no query."""

import re

# A password may hold an @, and where SQLAlchemy reads it a slash, so that the last @ counts; rather too much is hidden.
USER = re.compile(r"://(?:[^/\s:]*:\S*|[^/\s]*)@")
QUERY = re.compile(r"(://[^\s?]*)\?\S*")


def public(text: str, address: str = "") -> str:
    """Take from the addresses in `text` what may be secret: user, password and query.

    `address` is one that may stand in it with blanks in its password.
    """
    if address:
        text = text.replace(address, re.sub("://.*@", "://", address))
    return QUERY.sub(r"\1", USER.sub("://", text))
