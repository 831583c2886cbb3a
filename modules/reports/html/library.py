"""The JavaScript library of the charts, as text to be inlined."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, version

from modules.data.cache import cache_dir
from variants.atomic import write_atomic

PACKAGE = "vl-convert-python"


@functools.cache
def library() -> str | None:
    """Vega, Vega-Lite and vega-embed as one script that defines ``vegaEmbed``; None where `PACKAGE` is not installed.

    Bundling takes seconds; the script is kept in the cache folder under the package's version.
    """
    try:
        kept = cache_dir() / f"vega-{version(PACKAGE)}.js"
    except PackageNotFoundError:
        return None
    try:
        return kept.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        pass
    try:
        import vl_convert
    except ImportError:
        return None
    script = vl_convert.javascript_bundle().replace("</script", "<\\/script")
    try:
        write_atomic(kept, script)
    except Exception:  # a cache that cannot be written costs time alone
        return script
    return script
