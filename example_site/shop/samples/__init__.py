"""The shop's sample day: order files, products, pictures, and what the supplier charges."""

from pathlib import Path

SAMPLES = Path(__file__).resolve().parent
