"""Backbones. Importing this package registers lmlab's own classes with transformers."""

from lmlab.models import biased as biased
from lmlab.models import narrow as narrow
from lmlab.models import recurrent as recurrent
from lmlab.models import towers as towers
