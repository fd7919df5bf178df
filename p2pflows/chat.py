"""The former name of `p2pflows.models`: imports and served flows that use it keep working."""

from __future__ import annotations

import sys

from p2pflows import models
from p2pflows.models import api_info, backend, flow, history, images, keyring, templates

for _module in (api_info, backend, flow, history, images, keyring, templates):
    sys.modules[_module.__name__.replace(models.__name__, __name__)] = _module
sys.modules[__name__] = models
