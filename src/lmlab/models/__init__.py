"""Backbones. Importing this package registers lmlab's own classes with transformers."""

from lmlab.models import own_code as own_code
