"""How pictures look: the colours of the page, by name, and the sizes for a desk and for a phone.

On the page a colour is a CSS variable, so one picture does for light and dark. The colours can be told apart with any
colour vision (after Okabe and Ito), and none says anything alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["DARK", "DESK", "LIGHT", "PHONE", "PICTURE", "Look"]

LIGHT: Mapping[str, str] = {
    "paper": "#ffffff",
    "card": "#f6f7f9",
    "ink": "#1b1f24",
    "muted": "#59636e",
    "grid": "#dfe3e8",
    "blue": "#0072b2",
    "red": "#c24e00",
    "amber": "#a96500",
    "green": "#00815e",
    "purple": "#9b4f8c",
    "grey": "#76808b",
}
DARK: Mapping[str, str] = {
    "paper": "#14171b",
    "card": "#1d2228",
    "ink": "#e8eaed",
    "muted": "#a3adb8",
    "grid": "#333a43",
    "blue": "#56b4e9",
    "red": "#ff8c4d",
    "amber": "#f0c04a",
    "green": "#3ccaa0",
    "purple": "#d79acb",
    "grey": "#8f99a4",
}

_VARIABLES = {name: f"var(--{name})" for name in LIGHT}


@dataclass(frozen=True)
class Look:
    """`is_titled`: the picture stands alone, without a heading over it."""

    colours: Mapping[str, str]
    width: int
    is_narrow: bool = False
    is_titled: bool = False


DESK = Look(_VARIABLES, 960)
PHONE = Look(_VARIABLES, 350, is_narrow=True)
PICTURE = Look(LIGHT, 960, is_titled=True)
