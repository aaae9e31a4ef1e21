"""Every sentence this program says to people, behind a key; a language is one file with one table.

Imported by the thin client: nothing but the table. A missing key or field is a bug and raises; a test walks them all.
"""

from p2pnode.sentences.en import TABLE as TABLE


def say(key: str, /, **fields: object) -> str:
    """The sentence, its fields filled in. Fields are not cleaned here: whoever prints words of others cleans them."""
    return TABLE[key].format(**fields)
