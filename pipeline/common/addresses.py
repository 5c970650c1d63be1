"""What may be shown of an address, or of an error that names one: no user, no password, no query."""

import re

# A password may hold an @, and where SQLAlchemy reads it a slash, so that the last @ counts; rather too much is hidden.
USER = re.compile(r"://(?:[^/\s:]*:\S*|[^/\s]*)@")
QUERY = re.compile(r"(://[^\s?]*)\?\S*")
REASON_CHARACTERS = 300


def public(text: str, address: str = "") -> str:
    """Take from the addresses in `text` what may be secret: user, password and query.

    `address` is one that may stand in it with blanks in its password.
    """
    if address:
        text = text.replace(address, re.sub("://.*@", "://", address))
    return QUERY.sub(r"\1", USER.sub("://", text))


def reason(error: Exception, address: str = "") -> str:
    """Give the first line of what an error says, or else its name, as `public` lets it be shown."""
    return public(str(error), address).strip().split("\n")[0][:REASON_CHARACTERS] or type(error).__name__
