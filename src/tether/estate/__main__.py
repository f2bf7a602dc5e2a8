"""``python -m tether.estate STATE_DIR OWNER``: what a hub has done when its owner has died and the trees have ended."""

from __future__ import annotations

import sys

from tether.estate import settle

if __name__ == "__main__":
    state_dir, owner = sys.argv[1:3]
    settle.settle_own(state_dir, owner, {})
