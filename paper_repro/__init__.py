"""Scripts that rebuild the papers' tables, and the published figures they are compared with."""

from modules.paths import PUBLISHED as PUBLISHED
