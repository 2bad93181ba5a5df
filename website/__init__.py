"""Makes the documentation: pages that come from the code, and the checks of `make docs`.

`reference` writes the generated pages, `public` knows every public name, `hooks` connects both to mkdocs. The texts by
hand are in `docs/`.
"""
