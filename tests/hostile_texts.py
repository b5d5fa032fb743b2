"""Texts that break what takes them for more than texts: readers, templates, pages, terminals."""

HOSTILE = [
    *(
        "",
        " ",
        ".",
        '"',
        "''",
        '""',
        "…",
        "\0",
        "\n",
        "\r\n",
        "\u2028",
        "\u200b",
        "\ufeff",
        "\u202e",
    ),
    *("A", "B", "AB", "a", "I", "Paris", "Lyon", "baseline", "pooled", "bias_correct", "ambig"),
    *("İ", "ß", "½", "㏂", "´", "ŉ", "한", "\u1112\u1161\u11ab", "e" + "\u0301" * 99, "𝒳", "Ａ"),
    *("{", "{question}", "{0}", "%s", "(", "[", "]", "^-]", "\\", "(a+)+$", "|", "b''", "\x1b[2J"),
    *("<|im_end|>", "</think>", "1e999", "nan", "0x1", "1_0", "x" * 3000, "NaN", "(A)", "(A) (B)"),
]
# What would run or break a page; each would set `hacked` if it ran.
MARKUP = [
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "' onmouseover='window.hacked=1' autofocus onfocus='window.hacked=1",
    "</p></article></details></section></main></body></html>",
    "</style></script><svg onload=window.hacked=1>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "<!-- <mark>", "-->", "]]>", "&lt;script&gt;", "&#60;b&#62;",
    "{{ 7 * 7 }}", "{% raw %}", "{# no #}", "${alert(1)}", "javascript:window.hacked=1",
    "<base href=x><meta http-equiv=refresh content=0><link rel=stylesheet href=x>",
    "<form action=x><input name=search autofocus></form>",
    "\ud800 half a character \udfff",
    "العربية \u202e reversed \u2066 isolated",
    "Z̴̡̛ä̶l 👨‍👩‍👧 🇫🇷 \x00\x85\x9b2J\x1b]8;;x\x07",
]  # fmt: skip
